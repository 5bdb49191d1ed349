//! Heat ramps: published perceptual colour maps, cut into a few levels.
//!
//! Few levels, because each change of a cell's colour costs bytes over SSH: five to eight levels send about
//! a sixth of what a continuous fade sends, and read as well.

use super::palette::{nearest_xterm, xterm_rgb, Lab, Rgb};

/// A colour map from cold to hot, as evenly spaced anchors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ramp {
    /// Name in theme files.
    pub name: &'static str,
    anchors: &'static [u32],
}

/// Cividis: brightness rises evenly and hue runs from blue to yellow only, so it reads the same with
/// red-green colour-vision deficiency (Nuñez, Anderton and Renslow 2018, PLOS ONE 13(7):e0199239).
/// Anchors are every 16th entry of the published 256-entry table.
pub const CIVIDIS: Ramp = Ramp {
    name: "cividis",
    anchors: &[
        0x00_224e, 0x00_2e6a, 0x1a_386f, 0x32_436d, 0x43_4e6c, 0x53_5a6d, 0x61_656f, 0x6f_7073, 0x7d_7c78, 0x8b_8778, 0x9a_9376, 0xaa_a073,
        0xbb_ad6d, 0xcc_ba64, 0xdd_c858, 0xef_d748, 0xfe_e838,
    ],
};

/// Viridis (van der Walt and Smith 2015).
pub const VIRIDIS: Ramp = Ramp {
    name: "viridis",
    anchors: &[
        0x44_0154, 0x48_186a, 0x47_2d7b, 0x42_4086, 0x3b_528b, 0x33_638d, 0x2c_728e, 0x26_828e, 0x21_918c, 0x1f_9f88, 0x27_ad81, 0x3d_bc74,
        0x5c_c863, 0x81_d34d, 0xaa_dc32, 0xd5_e21a, 0xfd_e725,
    ],
};

/// Magma (van der Walt and Smith 2015).
pub const MAGMA: Ramp = Ramp {
    name: "magma",
    anchors: &[
        0x00_0004, 0x0a_0822, 0x1d_1147, 0x36_106b, 0x51_127c, 0x6a_1c81, 0x83_2681, 0x9c_2e7f, 0xb7_3779, 0xcf_4070, 0xe5_5064, 0xf4_695c,
        0xfb_8761, 0xfe_a571, 0xfe_c287, 0xfd_e0a1, 0xfc_fdbf,
    ],
};

/// All ramps that a theme file can name.
pub const RAMPS: [Ramp; 3] = [CIVIDIS, VIRIDIS, MAGMA];

impl Ramp {
    /// The ramp of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        RAMPS.into_iter().find(|r| r.name == name)
    }

    /// The colour at `t` in 0..1, linear between anchors.
    #[must_use]
    pub fn at(&self, t: f32) -> Rgb {
        let t = t.clamp(0.0, 1.0) * (self.anchors.len() - 1) as f32;
        let low = (t as usize).min(self.anchors.len() - 2);
        rgb(self.anchors[low]).mix(rgb(self.anchors[low + 1]), t - low as f32)
    }

    /// `count` colours, evenly spaced in lightness from `from` to `to` along the ramp.
    ///
    /// Even steps of lightness, not of `t`, keep neighbouring levels equally far apart.
    #[must_use]
    pub fn levels(&self, count: usize, from: f32, to: f32) -> Vec<Rgb> {
        const FINE: usize = 256;
        let fine: Vec<Rgb> = (0..=FINE).map(|i| self.at(from + (to - from) * i as f32 / FINE as f32)).collect();
        let (first, last) = (fine[0].lab().l, fine[FINE].lab().l);
        (0..count)
            .map(|i| {
                let want = if count < 2 { last } else { first + (last - first) * i as f32 / (count - 1) as f32 };
                let near = |c: &&Rgb| (c.lab().l - want).abs();
                *fine.iter().min_by(|a, b| near(a).total_cmp(&near(b))).unwrap_or(&fine[0])
            })
            .collect()
    }
}

/// How much more a difference of hue counts than one of lightness when a ramp is put on the fixed palette.
/// With equal weights the blue half of cividis turns grey, since the palette is coarse there.
const HUE_WEIGHT: f32 = 2.0;
/// Least step of lightness between neighbours, as a part of an even step.
const LEAST_STEP: f32 = 0.6;

/// The ramp on the 240 fixed xterm colours: the choice of least total distance among those whose lightness
/// runs the same way in clear steps. Taking each level's nearest colour alone can give two levels one colour,
/// or turn their order round.
#[must_use]
pub fn quantized(levels: &[Rgb]) -> Vec<u8> {
    let palette: Vec<Lab> = (16..=255).map(|i| xterm_rgb(i).lab()).collect();
    let targets: Vec<Lab> = levels.iter().map(|c| c.lab()).collect();
    let (Some(first), Some(last)) = (targets.first(), targets.last()) else { return Vec::new() };
    let run = last.l - first.l;
    let least = run.abs() / (targets.len().max(2) - 1) as f32 * LEAST_STEP;
    let cost = |t: &Lab, c: &Lab| {
        let hue = (t.a - c.a).powi(2) + (t.b - c.b).powi(2);
        (t.l - c.l).powi(2) + HUE_WEIGHT * HUE_WEIGHT * hue
    };
    // best[j]: least cost of a run that ends in palette colour j; from[k][j]: the colour before it.
    let mut best: Vec<f32> = palette.iter().map(|c| cost(first, c)).collect();
    let mut from: Vec<Vec<usize>> = Vec::new();
    for target in &targets[1..] {
        let step = |i: usize, j: usize| (palette[j].l - palette[i].l) * run.signum();
        let reach = |j: usize| (0..palette.len()).filter(|i| step(*i, j) >= least).min_by(|a, b| best[*a].total_cmp(&best[*b]));
        let before: Vec<Option<usize>> = (0..palette.len()).map(reach).collect();
        let price = |(j, b): (usize, &Option<usize>)| b.map_or(f32::INFINITY, |i| best[i] + cost(target, &palette[j]));
        let next: Vec<f32> = before.iter().enumerate().map(price).collect();
        from.push(before.into_iter().map(Option::unwrap_or_default).collect());
        best = next;
    }
    let mut at = (0..best.len()).min_by(|a, b| best[*a].total_cmp(&best[*b])).unwrap_or(0);
    if !best[at].is_finite() {
        return levels.iter().map(|c| nearest_xterm(*c)).collect();
    }
    let mut chosen = vec![at];
    for before in from.iter().rev() {
        at = before[at];
        chosen.push(at);
    }
    chosen.into_iter().rev().map(|i| 16 + i as u8).collect()
}

fn rgb(hex: u32) -> Rgb {
    Rgb((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cividis_meets_its_published_end_points_and_middle() {
        // matplotlib: 0.0, 0.135112, 0.304751 · 0.995737, 0.909344, 0.217772 · index 128: 0.488697, 0.485318, 0.471008
        assert_eq!(CIVIDIS.at(0.0), Rgb(0, 34, 78));
        assert_eq!(CIVIDIS.at(1.0), Rgb(254, 232, 56));
        assert_eq!(CIVIDIS.at(0.5), Rgb(125, 124, 120));
    }

    #[test]
    fn every_ramp_rises_in_luminance_at_every_level_count() {
        for ramp in RAMPS {
            for count in 2..=8 {
                let levels = ramp.levels(count, 0.0, 1.0);
                for pair in levels.windows(2) {
                    assert!(pair[1].luminance() > pair[0].luminance(), "{} {count}: {pair:?}", ramp.name);
                }
            }
        }
    }

    #[test]
    fn every_ramp_stays_distinct_and_rising_on_256_colours_both_ways_round() {
        for ramp in RAMPS {
            for count in 3..=8 {
                let up = quantized(&ramp.levels(count, 0.05, 1.0));
                let down = quantized(&ramp.levels(count, 1.0, 0.05));
                assert!(up.windows(2).all(|p| xterm_rgb(p[1]).lab().l > xterm_rgb(p[0]).lab().l), "{} {up:?}", ramp.name);
                assert!(down.windows(2).all(|p| xterm_rgb(p[1]).lab().l < xterm_rgb(p[0]).lab().l));
            }
        }
    }

    #[test]
    fn cividis_on_256_colours_keeps_its_blue_its_grey_and_its_yellow() {
        let colors: Vec<Rgb> = quantized(&CIVIDIS.levels(5, 0.0, 1.0)).into_iter().map(xterm_rgb).collect();
        assert!(colors[0].lab().b < -0.1 && colors[1].lab().b < -0.03, "{colors:?}");
        assert!(colors[2].lab().b.abs() < 0.02 && colors[4].lab().b > 0.12, "{colors:?}");
    }

    #[test]
    fn steps_of_lightness_are_even() {
        let steps: Vec<f32> = CIVIDIS.levels(6, 0.0, 1.0).windows(2).map(|p| p[1].lab().l - p[0].lab().l).collect();
        let (low, high) = steps.iter().fold((f32::MAX, 0f32), |(l, h), &s| (l.min(s), h.max(s)));
        assert!(high - low < 0.02, "{steps:?}");
    }
}
