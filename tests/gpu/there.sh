#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: is the GPU tier right, and how fast is it? Nothing is installed; the program, built elsewhere, and this
# folder are all it needs (and python3 for the large model). tests/gpu/run.sh packs them.
#
#   tests/gpu/there.sh [--rotary FILE] [--out FOLDER] [--only STEP,…] [--jobs N] [--dry] [--vram SIZE] [--llama FOLDER] [--keep]
#
#   --rotary   the program; beside this script, else target/gpu/rotary
#   --out      where results go (target/gpu/results): a file per step, and summary.txt
#   --only     some of: kernels models proof sanitizer bench resident llama
#   --jobs     so many checks of models side by side (half of the processors)
#   --dry      the same steps on the simulated device and a toy-sized model: tries this script, measures nothing
#   --vram     cap of the benchmark (6.3GiB)
#   --llama    llama.cpp: its sources (built there with cmake and nvcc), or a folder with llama-bench, or one that tests/compare/peer_gpu.sh has made
#   --big      where the large model is or goes, 22 GB (/tmp/rotary-big.gguf); one that was made here is deleted unless --keep
#
# Exit code 0: every step that ran passed. A step that can't run here says why and counts as skipped.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
rotary='' out=target/gpu/results only='' dry=0 vram=6.3GiB llama='' big=/tmp/rotary-big.gguf keep=0 jobs=$((($(nproc) + 1) / 2)) made=0
while [ $# -gt 0 ]; do
  case $1 in
    --rotary) rotary=$2; shift ;;
    --out) out=$2; shift ;;
    --only) only=$2; shift ;;
    --jobs) jobs=$2; shift ;;
    --vram) vram=$2; shift ;;
    --llama) llama=$2; shift ;;
    --big) big=$2; shift ;;
    --keep) keep=1 ;;
    --dry) dry=1 ;;
    *) sed -n '2,18s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done
if [ -z "$rotary" ]; then
  for rotary in "$here/rotary" "$here/../../target/gpu/rotary"; do [ -x "$rotary" ] && break; done
fi
[ -x "$rotary" ] || { echo "there.sh: no program at $rotary; tests/gpu/run.sh makes one" >&2; exit 2; }
fixtures=$here/fixtures
[ -d "$fixtures" ] || fixtures=$here/../reference/fixtures
mkdir -p "$out"
out=$(cd "$out" && pwd)
device=gpu
[ $dry = 1 ] && device=simulated
failed=0
: >"$out/summary.txt"

# Libraries of Python packages: Rotary needs none of them, compute-sanitizer and llama.cpp may.
packages=$(python3 -c 'import glob, sys; print(":".join(d for p in sys.path for d in sorted(glob.glob(p + "/nvidia/*/lib"))))' 2>/dev/null)
with_packages() { LD_LIBRARY_PATH="$packages${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$@"; }

say() { echo "$*" | tee -a "$out/summary.txt"; }
wanted() { [ -z "$only" ] || case ",$only," in *",$1,"*) true ;; *) false ;; esac; }
passed() { say "passed   $*"; }
skipped() { say "skipped  $*"; }
wrong() { say "FAILED   $*"; failed=1; }

say "$(date -u +%FT%TZ) $("$rotary" --version)"
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total,pcie.link.gen.max,pcie.link.width.max --format=csv,noheader | tee -a "$out/summary.txt"
"$rotary" doctor 2>/dev/null | grep -E 'GPU|processor|memory' | tee -a "$out/summary.txt"

# (a) Every kernel in every type against its meaning, and what the device reaches.
if wanted kernels; then
  scale=4
  [ $dry = 1 ] && scale=1
  if "$rotary" gpu-check --device $device --scale $scale --json >"$out/kernels.json" 2>"$out/kernels.err"; then
    passed "kernels: $(($(wc -l <"$out/kernels.json") - 1)) trials, none wrong"
    [ $dry = 1 ] || { "$rotary" gpu-check --device $device --speed >"$out/speed.txt" 2>&1 && passed 'kernels: timed, see speed.txt'; }
  else
    wrong "kernels: $(grep -c '"failures":\["' "$out/kernels.json") wrong; see kernels.json"
    grep '"failures":\["' "$out/kernels.json" | cut -c1-300 | head -5 | tee -a "$out/summary.txt"
    cat "$out/kernels.err"
  fi
fi

# (b) Logits, routes and greedy text of the reference models at every kind of slot count, in every way of treating misses, and while slots
# are taken away and given back.
if wanted models; then
  checks=0 running=0 left=
  parts=$(mktemp -d)
  for folder in "$fixtures"/*/; do
    name=$(basename "$folder")
    [ $dry = 1 ] && case $name in strict | q35-odd | q4_k_m | gemma4 | glm-flash) ;; *) continue ;; esac
    # Models that run on the processor alone are refused by name.
    if ! why=$("$rotary" plan "$folder/model.gguf" --device $device 2>&1 >/dev/null) && [ -z "${why##*no GPU kernels*}" ]; then
      left="$left $name"
      continue
    fi
    reference=$(ls "$folder"*.npz | grep -v guesses | head -1)
    experts=$("$rotary" plan "$folder/model.gguf" --json 2>/dev/null | sed -n 's/.*"max_slots":\([0-9]*\).*/\1/p')
    half=$(((${experts:-0} + 1) / 2))
    ways=("--slots 1" "--slots $half" "--slots $experts" "--slots $half --miss gpu" "--slots $half --miss cpu" "--slots 1 --miss gpu"
      "--slots 1 --miss cpu" "--slots $half --resize 1,$experts,$half" "--slots $experts --miss cpu --resize $half,1,$experts"
      "--slots $experts --resize $experts,$experts,$experts,$experts,$half" "--slots $half --hold never" "--slots $half --miss gpu --hold never --ahead 1"
      "--slots $half --ahead 1 --foresee always" "--slots $half --kv-f16" "--slots 1 --mailbox always" "--slots $half --mailbox always"
      "--slots $half --mailbox always --ahead 1 --foresee always" "--slots $half --mailbox always --resize 1,$experts,$half")
    # A model without experts has no slots.
    [ $half = 0 ] && ways=("" "--kv-f16")
    for how in "${ways[@]}"; do
      checks=$((checks + 1))
      if [ $running -ge "$jobs" ]; then wait -n; else running=$((running + 1)); fi
      part=$parts/$(printf '%03d' $checks)
      {
        echo "== $name $how" >"$part"
        "$rotary" check "$folder/model.gguf" "$reference" --device $device $how >>"$part" 2>&1 || echo "$name $how: $(tail -1 "$part")" >"$part.bad"
      } &
    done
  done
  wait
  cat "$parts"/??? >"$out/models.txt" 2>/dev/null
  bad=$(find "$parts" -name '*.bad' | wc -l)
  if [ "$bad" = 0 ] && [ $checks -gt 0 ]; then
    passed "models: $checks checks${left:+; without GPU kernels, so left out:$left}"
  else
    wrong "models: $bad of $checks checks; see models.txt"
    cat "$parts"/*.bad 2>/dev/null | head -5 | tee -a "$out/summary.txt"
  fi
  rm -rf "$parts"
  # Tokens that are read along: the same words with the model's own guesses as without, with every expert in a slot and with few.
  along=0 apart=
  for name in q35-strict qwen35; do
    for slots in "" "--slots 3"; do
      [ $name = qwen35 ] && [ -n "$slots" ] && continue
      case=along-$name${slots:+-few}
      for draft in never always; do
        "$rotary" run "$fixtures/$name/model.gguf" --raw -p 'The sea and the mountains and the sea and the' -n 48 --greedy --kv-f32 --device $device $slots --draft $draft \
          >"$out/$case-$draft.txt" 2>"$out/$case-$draft.err" || apart="$apart $name:$(tail -1 "$out/$case-$draft.err")"
      done
      cmp -s "$out/$case-never.txt" "$out/$case-always.txt" || apart="$apart $name$slots"
      grep -q 'drafted tokens' "$out/$case-always.err" || apart="$apart $name$slots:nothing-drafted"
      along=$((along + 1))
    done
  done
  if [ -z "$apart" ]; then passed "models: $along answers are the same with tokens read along"; else wrong "models: answers differ with tokens read along:$apart"; fi
fi

# (c) Reads and writes astray, races within a block, barriers that not all threads reach.
if wanted sanitizer; then
  sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
  [ -n "$sanitizer" ] || sanitizer=$(python3 -c 'import glob, sys; print(*[f for p in sys.path for f in glob.glob(p + "/nvidia/*/bin/compute-sanitizer")][:1])' 2>/dev/null)
  if [ $dry = 1 ]; then
    skipped "sanitizer: a simulated device has none"
  elif [ -z "$sanitizer" ]; then
    skipped "sanitizer: compute-sanitizer is not on this machine"
  else
    # Looking for races takes minutes per type of weights: each kernel that shares memory is looked at in the types whose code differs most.
    for run in memcheck: synccheck: racecheck:route racecheck:attention racecheck:delta_rule racecheck:_norm racecheck:q8_0 racecheck:q4_K racecheck:q6_K racecheck:iq3_s; do
      tool=${run%%:*} among=${run#*:} log=$out/${run/:/-}.txt
      if with_packages timeout "${sanitizer_limit:-600}" "$sanitizer" --tool "$tool" --error-exitcode 9 "$rotary" gpu-check --device gpu --scale 1 ${among:+--only "$among"} >"$log" 2>&1; then
        passed "sanitizer: $tool $among"
      else
        wrong "sanitizer: $tool $among (status $?; 124: longer than \$sanitizer_limit, ${sanitizer_limit:-600} s); see $(basename "$log")"
        grep -E '^=+ (ERROR|Invalid|Race|Barrier|Uninit)' "$log" | head -3 | tee -a "$out/summary.txt"
      fi
    done
  fi
fi

# The large model: random weights, true shape and types, routing with locality.
large() {
  [ -e "$big" ] && [ ! -e "$big.part" ] && return 0
  command -v python3 >/dev/null || { skipped "$1: no python3 to write the large model"; return 1; }
  local shape=()
  [ $dry = 1 ] && shape=(--layers 4 --experts 16 --top-k 4 --vocab 512 --hidden 256 --ff 256)
  if [ $dry = 0 ] && [ "$(df --output=avail -k "$(dirname "$big")" | tail -1)" -lt 23000000 ]; then
    skipped "$1: $(dirname "$big") has no room for 22 GB; --big names another place"
    return 1
  fi
  : >"$big.part"
  made=1
  python3 "$here/big_model.py" "$big" "${shape[@]}" && rm -f "$big.part"
}

# Least and most device memory in use while a command runs, in MiB, of samples after the first quarter.
watched() {
  local log=$1 watcher=''
  shift
  if [ $dry = 0 ] && command -v nvidia-smi >/dev/null; then
    nvidia-smi -i 0 --query-gpu=memory.used --format=csv,noheader,nounits -lms 250 >"$log" 2>/dev/null &
    watcher=$!
  fi
  "$@"
  local code=$?
  if [ -n "$watcher" ]; then kill "$watcher" 2>/dev/null; wait "$watcher" 2>/dev/null; fi
  return $code
}

# What a user's first start tries: only what the large model uses, at sizes cut down. A second start tries nothing.
if wanted proof && { [ $dry = 1 ] || large proof; }; then
  shaped=$big
  # Shapes and types are all that counts here, so that a dry run has the true ones.
  if [ $dry = 1 ]; then
    shaped=$out/hollow.gguf
    python3 "$here/big_model.py" "$shaped" --hollow
  fi
  if "$rotary" gpu-check --device $device --model "$shaped" >"$out/proof.txt" 2>&1; then
    # The simulated device runs the reference too, so half of that is what the processor of a machine with a GPU takes.
    passed "proof: $(tail -1 "$out/proof.txt"), of what the large model uses"
  else
    wrong "proof: $(grep -c '^WRONG' "$out/proof.txt") wrong; see proof.txt"
    grep -A1 '^WRONG' "$out/proof.txt" | cut -c1-300 | head -6 | tee -a "$out/summary.txt"
  fi
  [ $dry = 0 ] || rm -f "$shaped"
  starts=$(mktemp -d)
  for prove in always auto; do
    XDG_STATE_HOME=$starts "$rotary" bench demo --device $device --prove $prove --prompt 16 --gen 4 --repeat 1 >"$out/proof-$prove.txt" 2>&1 || wrong "proof: the demo, --prove $prove: $(tail -1 "$out/proof-$prove.txt")"
  done
  rm -rf "$starts"
  if ! grep -q "kernels passed" "$out/proof-always.txt"; then wrong 'proof: a first start tries nothing; see proof-always.txt'
  elif grep -q "kernels passed" "$out/proof-auto.txt"; then wrong 'proof: a second start tries again; see proof-auto.txt'
  else passed "proof: $(grep -o "the GPU's kernels passed.*" "$out/proof-always.txt" | head -1); a second start tries nothing"; fi
fi

field() { sed -n "s/.*\"$1\":{\{0,1\}\(\"mean\":\)\{0,1\}\([0-9.eE+-]*\).*/\2/p" "$2" | head -1; }

# bench NAME options…: a line of figures, and NAME.json. The model's layers add little to the hidden state, so that its routing stays with a topic; routers that are asked before their
# turn would foresee nearly all of it, which no trained model grants. So they are not asked, but where that is what is measured.
bench() {
  local name=$1
  shift
  local gen=${gen:-2048} prompt=${prompt:-2048}
  [ $dry = 1 ] && gen=24 prompt=40
  if ! watched "$out/$name.mib" "$rotary" bench "$big" --device $device --prompt $prompt --gen $gen --repeat 1 --topics 12 --json --foresee "${foresee:-never}" "$@" \
    >"$out/$name.json" 2>"$out/$name.err"; then
    wrong "$name: $(tail -1 "$out/$name.err")"
    return 1
  fi
  local json=$out/$name.json
  say "         $name: $(field gen_tps "$json") tokens/s, prompt $(field prompt_tps "$json") tokens/s, hit rate $(field hit_rate "$json"), slots $(field slots "$json"), launches per token $(field launches "$json")"
  say "         $name, us per token: trunk $(field trunk "$json"), hits $(field hits "$json"), misses $(field misses "$json"), copies $(field upload "$json")"
  if [ -s "$out/$name.mib" ]; then
    # Of the time in which slots are full: the second half of the samples at which the program had its memory.
    local spread
    spread=$(awk '{v[NR]=$1; if ($1>m) m=$1} END {for (i=1;i<=NR;i++) if (v[i]>m*0.8) w[++n]=v[i]; for (i=int(n/2)+1;i<n;i++) {if (!lo||w[i]<lo) lo=w[i]; if (w[i]>hi) hi=w[i]} print hi-lo, hi}' "$out/$name.mib")
    if [ "${spread%% *}" -le 50 ]; then passed "$name: device memory stable within ${spread%% *} MiB at ${spread##* } MiB"; else wrong "$name: device memory moved by ${spread%% *} MiB, to ${spread##* } MiB"; fi
  fi
}

# The least time of a token, from bandwidths of this run: bytes read in device memory, and beside it bytes of misses over the link.
roofline() {
  [ -s "$out/kernels.json" ] || { say "         roofline: needs the step kernels"; return; }
  python3 - "$out/kernels.json" "$out/$1.json" "$("$rotary" plan "$big" --device $device "${@:2}" --json 2>/dev/null)" <<'P' | tee -a "$out/summary.txt"
import json, sys
speed = json.loads(open(sys.argv[1]).readline())
run, plan = json.load(open(sys.argv[2])), json.loads(sys.argv[3])
# Per expert and layer; eight chosen, or as many as the toy has.
per = [l["bytes"] for l in plan["slot_bytes"]]
k = run.get("top_k", 8 if len(per) >= 40 else 4)
chosen = k * sum(per)
inside = plan["trunk"] + chosen * run["hit_rate"]
link = run["missed_bytes"] + run["uploaded_bytes"]
least = max(inside / speed["inside"], link / speed["up"])
tps = run["gen_tps"]["mean"]
print(f"         roofline: {inside / 1e6:.0f} MB in device memory at {speed['inside'] / 1e9:.0f} GB/s, {link / 1e6:.1f} MB of misses and swaps beside a link of "
      f"{speed['up'] / 1e9:.1f} GB/s: at most {1 / least:.1f} tokens/s, reached {100 * tps * least:.0f} %")
P
}

# (d) Under a cap of device memory.
if wanted bench && large bench; then
  cap=(--vram "$vram")
  [ $dry = 1 ] && cap=(--slots 6)
  bench capped "${cap[@]}" && { passed "bench: ran"; roofline capped "${cap[@]}"; }
  for miss in gpu cpu; do gen=256 bench "capped-$miss" "${cap[@]}" --miss $miss; done
  # What it gives that host and device speak through a mailbox while a token runs: layer by layer, and whole.
  for mailbox in never always; do gen=384 bench "mailbox-$mailbox" "${cap[@]}" --mailbox $mailbox; done
  # What page-locked memory in huge pages gives: the same from the mapped file.
  gen=256 bench file "${cap[@]}" --hold never
  # Whether experts that come before their use pay: none, the usual one per look, two.
  for ahead in 0 1 2; do gen=256 bench "ahead-$ahead" "${cap[@]}" --ahead $ahead; done
  # What it costs to ask the routers of the next layers, where nothing comes of it; and the most that can come of it.
  gen=256 foresee=always bench asked "${cap[@]}" --ahead 0
  gen=256 foresee=auto bench foreseen "${cap[@]}" --ahead 1
  # What steps of several tokens take, and, of a few layers of the same kind, guesses of the block for them.
  along() { "$rotary" bench "$1" --device $device --along 3 --prompt "$read_first" --gen "$rounds" --topics 12 --foresee never "${@:3}" >"$out/along-$2.txt" 2>&1 && tail -5 "$out/along-$2.txt" | tee -a "$out/summary.txt"; }
  read_first=512 rounds=40 few=(--layers 8)
  [ $dry = 1 ] && read_first=40 rounds=4 few=(--layers 4 --experts 16 --top-k 4 --vocab 512 --hidden 256 --ff 256)
  along "$big" steps "${cap[@]}" --draft never || wrong "along: $(tail -1 "$out/along-steps.txt")"
  if [ $dry = 0 ] && [ "$(df --output=avail -k "$(dirname "$big")" | tail -1)" -lt 6000000 ]; then
    skipped "along: $(dirname "$big") has no room for 5 GB more"
  elif python3 "$here/big_model.py" "$big.guesses" --nextn "${few[@]}" >"$out/along-guesses.txt" 2>&1 && along "$big.guesses" guesses --slots 12; then
    passed 'along: ran'
  else
    wrong "along: $(tail -1 "$out/along-guesses.txt")"
  fi
  rm -f "$big.guesses"
fi
# Everything resident.
if wanted resident && large resident; then
  memory=$(nvidia-smi -i 0 --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null || echo 0)
  if [ $dry = 1 ] || [ "$memory" -gt 25000 ]; then
    experts=$("$rotary" plan "$big" --device $device --json | sed -n 's/.*"max_slots":\([0-9]*\).*/\1/p')
    gen=512 bench resident --slots "${experts:-256}" && { passed "resident: ran"; roofline resident --slots "${experts:-256}"; }
    # The same where the host hears of the routing when the token is over.
    gen=256 bench resident-silent --slots "${experts:-256}" --mailbox never
    # The same with a wait in every layer of every token, as if not everything were in slots.
    gen=256 bench resident-layers --slots "${experts:-256}" --timed-every 1
  else
    skipped "resident: 21 GB do not fit into this GPU"
  fi
fi

# llama.cpp under the same cap: as many layers' experts on the GPU as fit, the others on the host; then everything on the GPU. Random tokens in
# both programs; llama.cpp does not depend on which experts they choose.
llama_bench() { watched "$out/llama-$1.mib" with_packages "$tool" -m "$big" -ngl 99 -ncmoe "$1" -p 2048 -n 128 -r 2 -o json >"$out/llama-$1.json" 2>"$out/llama-$1.err"; }
llama_peer() {
  local lib=$llama/lib
  LLAMA_CPP_LIB_PATH=$lib GGML_BACKEND_DIR=$lib PYTHONPATH=$llama/py LD_LIBRARY_PATH="$lib:$packages:${LD_LIBRARY_PATH:-}:/usr/local/cuda/lib64" \
    watched "$out/llama-$1.mib" python3 "$llama/peer.py" "$big" --threads "$(nproc)" --prompt 2048 --tokens 128 --repeat 2 --repack --gpu --cpu-moe "$1" \
    >"$out/llama-$1.json" 2>"$out/llama-$1.err"
}
if wanted llama; then
  tool='' run=''
  if [ -x "$llama/llama-bench" ]; then tool=$llama/llama-bench; fi
  if [ -e "$llama/lib/libllama.so" ]; then run=llama_peer; fi
  if [ -z "$tool$run" ] && [ -f "$llama/CMakeLists.txt" ] && command -v cmake >/dev/null && command -v nvcc >/dev/null; then
    cmake -S "$llama" -B "$out/llama" -DGGML_CUDA=ON -DLLAMA_CURL=OFF -DCMAKE_BUILD_TYPE=Release >"$out/llama-build.txt" 2>&1 &&
      cmake --build "$out/llama" --target llama-bench -j >>"$out/llama-build.txt" 2>&1
    tool=$(find "$out/llama" -name llama-bench -type f -perm -u+x 2>/dev/null | head -1)
  fi
  [ -n "$tool" ] && run=llama_bench
  if [ $dry = 1 ]; then
    skipped "llama: nothing to compare a simulated device with"
  elif [ -z "$run" ]; then
    skipped "llama: no llama-bench, no libraries, and no sources with cmake and nvcc (--llama FOLDER)"
  elif large llama; then
    # The fewest layers on the host whose run stays under the cap.
    cap_mib=$(python3 -c 'import sys; s = sys.argv[1]; n = float(s.rstrip("GiMB")); print(int(n * (1024 if "G" in s else 1)))' "$vram")
    fits=''
    for host in ${llama_hosts:-28 30 32 34 36 38 40}; do
      $run $host || continue
      most=$(sort -n "$out/llama-$host.mib" | tail -1)
      if [ -n "$most" ] && [ "$most" -le "$cap_mib" ]; then fits=$host; break; fi
    done
    figures() { grep -oE '"(avg_ts|prefill_tps|decode_tps)": *[0-9.]*' "$1" | tail -2 | grep -o '[0-9.]*$' | tr '\n' ' '; }
    if [ -n "$fits" ]; then passed "llama: --n-cpu-moe $fits at $most MiB: $(figures "$out/llama-$fits.json")tokens/s (prompt, generation)"; else wrong "llama: nothing fits under $vram"; fi
    if $run 0; then passed "llama: everything on the GPU: $(figures "$out/llama-0.json")tokens/s (prompt, generation)"; fi
  fi
fi

[ $keep = 1 ] || [ $made = 0 ] || rm -f "$big" "$big.part"
[ $failed = 0 ] && say 'all that ran passed' || say 'something failed'
exit $failed
