#!/usr/bin/env bash
# Estimated against achieved tokens per second: records a bench of MODEL at several slot counts and simulates the same sessions.
#
#   rotary bench --profile
#   tests/compare/predict.sh MODEL [PROFILE [SLOTS...]]
#
# "achieved" is the median step; "hits" were recorded, "simulated" is what the scheduler makes of the same routing.
set -euo pipefail
rotary=${ROTARY:-target/release/rotary}
model=${1:-demo}
profile=${2:-this-machine}
shift $(($# < 2 ? $# : 2))
slots=("$@")
((${#slots[@]})) || slots=(4 8 12 16 24 32)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "| slots | hits, % | simulated, % | achieved, tokens/s | estimated, tokens/s | error, % |"
echo "| --- | --- | --- | --- | --- | --- |"
for n in "${slots[@]}"; do
    "$rotary" bench "$model" --slots "$n" --policy rotary --prompt 64 --gen 128 --repeat 5 --trace "$folder/$n.rotary" >/dev/null
    "$rotary" simulate "$folder/$n.rotary" --diff recorded "rotary@$n" --profile "$profile" |
        awk -v n="$n" '
            /^hit rate/ { hits = $(NF - 2); simulated = $(NF - 1) }
            /^tokens\/s, measured/ { achieved = $(NF - 2) }
            /^tokens\/s, estimated/ { estimated = $(NF - 1) }
            END { printf "| %s | %s | %s | %s | %s | %+.1f |\n", n, hits, simulated, achieved, estimated, (estimated / achieved - 1) * 100 }'
done
