"""Takes turns between `rotary bench` and llama.cpp (peer.py) and prints both. Started by llama.sh, which says how."""
from __future__ import annotations
import argparse, json, pathlib, shlex, statistics, subprocess, sys

HERE = pathlib.Path(__file__).parent


def lines(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode: sys.exit(f"{' '.join(map(str, command))}\n{done.stderr[-2000:]}")
    return [json.loads(l) for l in done.stdout.splitlines() if l.startswith("{")]


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("model"); ap.add_argument("--rotary", required=True); ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--prompt", type=int, default=128); ap.add_argument("--tokens", type=int, default=64)
    ap.add_argument("--rounds", type=int, default=3); ap.add_argument("--repack", action="store_true", help="llama.cpp with its rearranged copy of the weights")
    ap.add_argument("--bench", default="", help="more options for rotary bench")
    a = ap.parse_args()
    size = ["--threads", str(a.threads), "--prompt", str(a.prompt)]

    def ours():
        r = lines([a.rotary, "bench", a.model, "--json", *size, "--gen", str(a.tokens), "--repeat", "1", *shlex.split(a.bench)])[-1]
        return r["prompt_tps"]["mean"], r["gen_tps"]["mean"]

    def theirs():
        extra = ["--repack"] if a.repack else []
        r = lines([sys.executable, HERE / "peer.py", a.model, *size, "--tokens", str(a.tokens), "--repeat", "1", *extra])[-1]
        return r["prefill_tps"], r["decode_tps"]

    got = {ours: [], theirs: []}
    for i in range(a.rounds):       # the order alternates, so that neither always comes after the other
        for who in (ours, theirs) if i % 2 == 0 else (theirs, ours):
            got[who].append(who())
            print(f"round {i + 1}  {'rotary' if who is ours else 'llama.cpp':9s}  pp{a.prompt} {got[who][-1][0]:8.1f}  tg{a.tokens} {got[who][-1][1]:7.2f}  tokens/s", flush=True)
    print(f"\n{a.threads} threads, {a.rounds} rounds{', llama.cpp repacked' if a.repack else ''}      rotary   llama.cpp   ratio")
    for j, name in enumerate((f"pp{a.prompt}", f"tg{a.tokens}")):
        for how, f in (("best", max), ("median", statistics.median)):
            o, t = (f([x[j] for x in got[w]]) for w in (ours, theirs))
            print(f"{name:6s} {how:7s}{o:20.2f} {t:11.2f} {o / t:7.2f}x")


if __name__ == "__main__":
    main()
