#!/usr/bin/env python3
"""Sums up what times.sh has traced: the last tokens of a run, which end with the way down of the logits (the last of the large copies down; --logits BYTES if another one is meant)."""
import argparse, collections, csv

TOKENS = 16


def rows(name):
    for r in csv.reader(open(name)):
        # The last line of a program that was killed may be cut off.
        if len(r) == 9: yield int(r[0]), int(r[1]), r[2], tuple(map(int, r[3:7])), int(r[7]), int(r[8])


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("csv")
    args.add_argument("--logits", type=int)
    args = args.parse_args()
    all_rows = sorted(rows(args.csv))
    down = [r for r in all_rows if r[2] == "down" and (r[3][0] == args.logits if args.logits else r[3][0] >= 4096)]
    if not down: raise SystemExit("no way down of logits was traced; --logits says how many bytes it has")
    size, lane = down[-1][3][0], down[-1][4]
    ends = [i for i, r in enumerate(all_rows) if r[2] == "down" and r[3][0] == size and r[4] == lane]
    tokens = list(zip(ends, ends[1:]))[-TOKENS:]
    if not tokens: raise SystemExit("fewer than two tokens were traced")
    sums, total = collections.defaultdict(lambda: [0, 0, 0, 0]), 0
    for a, b in tokens:
        until = all_rows[a][1]
        total += all_rows[b][1] - until
        for start, end, name, shape, stream, _ in all_rows[a + 1:b + 1]:
            if stream != lane: continue
            s = sums[name, shape]
            s[0] += 1
            s[1] += end - start
            s[2] += max(0, end - max(until, start))
            s[3] += max(0, start - until)
            until = max(until, end)
    n, us = len(tokens), lambda ns: ns / 1e3
    alone, idle = (sum(s[i] for s in sums.values()) for i in (2, 3))
    print(f"{n} tokens, us each: {us(total / n):.0f}, of which {us(alone / n):.0f} at work and {us(idle / n):.0f} idle")
    print(f"{'':22} {'grid or bytes':22} {'per token':>9} {'us each':>9} {'alone':>9} {'idle before':>12}   (the last two per token)")
    for (name, shape), (count, took, mine, before) in sorted(sums.items(), key=lambda kv: -kv[1][2] - kv[1][3]):
        place = " x ".join(map(str, shape[:3])) if shape[3] else str(shape[0])
        print(f"{name:22} {place:22} {count / n:9.1f} {us(took / count):9.2f} {us(mine / n):9.1f} {us(before / n):12.1f}")


if __name__ == "__main__":
    main()
