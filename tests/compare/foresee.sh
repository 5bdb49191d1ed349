#!/usr/bin/env bash
# What `rotary` gains where the routers of the next layers are asked before their turn: eight sessions of the embedded toy model are recorded, simulated at
# several slot counts, and held against `decay` and Belady's bound.
#
#   tests/compare/foresee.sh [FIRST SEED]
#
# Hit rates and copies are over all uses of all sessions; the share of the gap from decay to Belady is the mean of 4 to 12 slots.
set -euo pipefail
rotary=${ROTARY:-target/release/rotary}
seed=${1:-15101}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

say() { # TEMPERATURE MOST ARGUMENTS...
    local heat=$1 most=$2
    shift 2
    "$rotary" run demo --device cpu --threads 1 --cold -q --seed "$seed" --temperature "$heat" -n "$most" --foresee always \
        --trace "$folder/$seed.rotary" "$@" >/dev/null
    seed=$((seed + 1))
}
say 0.8 320 -p 'Tell me a story about a goat and a bell.'
say 0.9 320 -p 'Can you tell me a story about an owl?'
say 0.8 320 --raw -p 'There was a boy who had a'
say 0.9 320 --raw -p 'Mia and her mom went to the'
say 0.8 320 -p 'Hello!' -p 'What do you like?' -p 'Tell me a story about a cow and the snow.'
say 0.9 60 -p 'Where does a bear live?'
say 0.8 60 -p 'What color is the sky?'
say 0.9 60 -p 'Can you help me?'

simulate() { # NAME ARGUMENTS...; a semicolon in the name stands for a comma
    local name=$1
    shift
    "$rotary" simulate "$folder"/*.rotary --slots 4,6,8,12,16 --format csv "$@" | sed "s|^|$name,|"
}
{
    simulate decay --policy decay
    simulate 'rotary; nothing ahead' --policy rotary --ahead 0 --foresee never
    simulate 'rotary; by likeness' --policy rotary --ahead 1 --foresee never
    simulate 'rotary; routers asked' --policy rotary --ahead 1
    simulate 'rotary; routers asked; two per look' --policy rotary --ahead 2
    simulate belady --policy belady
} | awk -F, '
    $2 == "file" { next }
    {
        way = $1; gsub(";", ",", way)
        if (!(way in seen)) { seen[way] = 1; ways[++n] = way }
        if (!($2 in known)) { known[$2] = 1; files[++m] = $2 }
        slots[$4] = 1
        used[way, $4] += $6; hits[way, $4] += $7; moved[way, $4] += $9
        rate[way, $4, $2] = $7 / $6; uses[$2] = $6
    }
    END {
        split("4 6 8 12 16", at, " ")
        printf "| percent of hits at slots | 4 | 6 | 8 | 12 | 16 | share of the gap | by session |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        for (i = 1; i <= n; i++) {
            printf "| %s", ways[i]
            for (s = 1; s <= 5; s++) printf " | %.2f", 100 * hits[ways[i], at[s]] / used[ways[i], at[s]]
            share = 0
            for (s = 1; s <= 4; s++) {
                d = hits["decay", at[s]] / used["decay", at[s]]; b = hits["belady", at[s]] / used["belady", at[s]]
                share += (hits[ways[i], at[s]] / used[ways[i], at[s]] - d) / (b - d) * 25
            }
            printf " | %.0f | ", share
            for (f = 1; f <= m; f++) {
                one = 0
                for (s = 1; s <= 4; s++) {
                    d = rate["decay", at[s], files[f]]; b = rate["belady", at[s], files[f]]
                    one += (rate[ways[i], at[s], files[f]] - d) / (b - d) * 25
                }
                printf "%.0f%s", one, f < m ? ", " : " |\n"
            }
        }
        printf "\n| copies per routed expert | 4 | 6 | 8 | 12 | 16 |\n| --- | --- | --- | --- | --- | --- |\n"
        for (i = 1; i < n; i++) {
            printf "| %s", ways[i]
            for (s = 1; s <= 5; s++) printf " | %.3f", moved[ways[i], at[s]] / used[ways[i], at[s]]
            print " |"
        }
        printf "\nuses by session:"
        for (f = 1; f <= m; f++) printf " %d", uses[files[f]]
        print ""
    }'
