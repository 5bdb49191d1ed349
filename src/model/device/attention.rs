//! Grouped-query attention on the device: the kernels of [`super::super::attention`]'s layer.

use super::super::attention::SelfAttention;
use super::super::ModelError;
use super::map::{apply, vector, Map, Norm, Rows, Target};
use super::workspace::Workspace;
use super::Pass;
use crate::gpu::params::{launch, Attention, ChunkAttention, JoinSplits, JoinSunk, MatVec, Rotate, WindowAttention, WindowChunkAttention};
use crate::gpu::{Address, Device, Memory};
use crate::kernels::attention::Heads;

/// One attention layer with its cache.
pub(super) struct DeviceAttention {
    heads: Heads,
    gated: bool,
    query: Map,
    key: Map,
    /// `None`: what `key` gives is also the values.
    value: Option<Map>,
    output: Map,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
    value_norm: Option<Norm>,
    scale: f32,
    clamp: Option<f32>,
    window: Option<usize>,
    /// `[query heads]`
    sinks: Option<Memory>,
    keys: Memory,
    values: Memory,
    /// Positions in the caches. Those of a window are rings.
    room: usize,
    f32: bool,
    /// Chunks may go through [`ChunkAttention`].
    tiled: bool,
}

impl DeviceAttention {
    pub(super) fn new(device: &dyn Device, layer: &SelfAttention, tiled: bool) -> Result<Self, ModelError> {
        let heads = layer.heads;
        let (room, f32) = (layer.cache.room(), layer.cache.is_f32());
        let cache = |dim: usize| device.alloc(heads.groups * room * dim * if f32 { 4 } else { 2 });
        let norm = |n: &Option<_>| n.as_ref().map(|n| Norm::new(device, n)).transpose();
        Ok(Self {
            heads,
            gated: layer.gated,
            query: Map::new(device, &layer.query)?,
            key: Map::new(device, &layer.key)?,
            value: layer.value.as_ref().map(|v| Map::new(device, v)).transpose()?,
            output: Map::new(device, &layer.output)?,
            query_norm: norm(&layer.query_norm)?,
            key_norm: norm(&layer.key_norm)?,
            value_norm: norm(&layer.value_norm)?,
            scale: layer.scale,
            clamp: layer.clamp,
            window: layer.window,
            sinks: layer.sinks.as_ref().map(|s| vector(device, s)).transpose()?,
            keys: cache(heads.key_dim)?,
            values: cache(heads.value_dim)?,
            room,
            f32,
            tiled: tiled && !f32 && ChunkAttention::fits(heads.key_dim as u32, heads.value_dim as u32),
        })
    }

    /// Width of queries (and gates), keys and values side by side.
    fn width(&self) -> usize {
        self.query.rows + self.key.rows + self.heads.groups * self.heads.value_dim
    }

    /// The rows of `h` are read, and the result goes to `to`.
    pub(super) fn forward(&self, pass: &Pass<'_>, to: Target) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let (angles, half) = pass.turn(self.window.is_some());
        let Heads { query, groups, key_dim, value_dim } = self.heads;
        let wide = work.wide(self.width());
        let (k, v) = (wide.right(self.query.rows), wide.right(self.query.rows + self.key.rows));
        let maps = [Some((&self.query, wide)), Some((&self.key, k)), self.value.as_ref().map(|value| (value, v))];
        let maps: Vec<_> = maps.into_iter().flatten().map(|(map, rows)| (map, Target::set(rows))).collect();
        apply(device, pass.h, tokens, &maps)?;
        // Values that are keys are those before anything is done to them.
        let raw = if self.value.is_some() { v } else { k };
        let v = match &self.value_norm {
            Some(norm) => norm.apply_pieces(device, raw, v, tokens, groups, self.clamp).map(|()| v)?,
            None => raw,
        };

        // A norm as long as a head belongs to each head; a longer one to the whole row.
        let whole = |norm: &Option<Norm>, x: Rows| -> Result<Address, ModelError> {
            match norm {
                Some(n) if n.len == key_dim => Ok(n.weight()),
                Some(n) => n.apply(device, x, x, tokens, self.clamp).map(|()| Address::NONE),
                None => Ok(Address::NONE),
            }
        };
        let (q_norm, k_norm) = (whole(&self.query_norm, wide)?, whole(&self.key_norm, k)?);
        let limit = self.clamp.unwrap_or(0.0);
        let clamped_before = self.query_norm.as_ref().is_some_and(|n| n.len != key_dim);
        let queries = work.middle(query * key_dim);
        let rotate = Rotate {
            q: wide.at,
            k: k.at,
            v: v.at,
            q_norm,
            k_norm,
            angles,
            q_out: queries.at,
            keys: self.keys.address(),
            values: self.values.address(),
            position: work.position(),
            tokens: tokens as u32,
            heads: query as u32,
            groups: groups as u32,
            key_dim: key_dim as u32,
            value_dim: value_dim as u32,
            half: half as u32,
            context: self.room as u32,
            wide: u32::from(self.f32),
            q_stride: wide.stride as u32,
            q_head: (key_dim * if self.gated { 2 } else { 1 }) as u32,
            k_stride: wide.stride as u32,
            v_stride: wide.stride as u32,
            eps: self.query_norm.as_ref().or(self.key_norm.as_ref()).map_or(0.0, |n| n.eps),
            limit: if clamped_before { 0.0 } else { limit },
            limit_v: if self.value_norm.is_some() { 0.0 } else { limit },
            ring: u32::from(self.window.is_some()),
        };
        launch(device, &rotate, &[])?;

        let out = work.heads(query * value_dim);
        let gate = if self.gated { wide.right(key_dim).at } else { Address::NONE };
        let plain = self.window.is_none() && self.sinks.is_none();
        let sees = self.window.map_or(pass.seen, |window| pass.seen.min(window + tokens));
        let pays = plain || WindowChunkAttention::pays(tokens as u32, query as u32, groups as u32, sees as u32);
        let tiled = tokens > MatVec::TOKENS as usize && self.tiled && pays;
        let splits = match tiled {
            true if !plain => 1,
            true => ChunkAttention::splits(tokens as u32, query as u32, groups as u32, pass.seen as u32, work.most_splits(tokens)),
            false => Workspace::splits(tokens),
        };
        let join = JoinSplits {
            partial: work.partial,
            gate,
            y: out.at,
            tokens: tokens as u32,
            heads: query as u32,
            value_dim: value_dim as u32,
            splits,
            gate_stride: wide.stride as u32,
            gate_head: 2 * key_dim as u32,
        };
        let scale = self.scale;
        if tiled {
            let attention = ChunkAttention {
                q: queries.at,
                keys: self.keys.address(),
                values: self.values.address(),
                partial: join.partial,
                gate,
                y: join.y,
                position: work.position(),
                tokens: join.tokens,
                heads: join.heads,
                groups: groups as u32,
                key_dim: key_dim as u32,
                value_dim: join.value_dim,
                context: self.room as u32,
                splits,
                gate_stride: join.gate_stride,
                gate_head: join.gate_head,
                scale,
            };
            if plain {
                launch(device, &attention, &[])?;
            } else {
                // Whoever sees everything sees a window that is never full.
                let window = self.window.map_or(u32::MAX, |w| w as u32);
                let sinks = self.sinks.as_ref().map_or(Address::NONE, Memory::address);
                launch(device, &WindowChunkAttention { of: attention, sinks, window, pad: 0 }, &[])?;
            }
        } else {
            let attention = Attention {
                q: queries.at,
                keys: self.keys.address(),
                values: self.values.address(),
                partial: join.partial,
                position: work.position(),
                tokens: join.tokens,
                heads: join.heads,
                groups: groups as u32,
                key_dim: key_dim as u32,
                value_dim: join.value_dim,
                context: self.room as u32,
                wide: u32::from(self.f32),
                splits,
                scale,
                pad: 0,
            };
            match self.window {
                Some(window) => launch(device, &WindowAttention { of: attention, window: window as u32, pad: 0 }, &[])?,
                None => launch(device, &attention, &[])?,
            }
        }
        match &self.sinks {
            // One range of a chunk is the result.
            _ if tiled && splits == 1 => {}
            Some(sinks) => launch(device, &JoinSunk { of: join, sinks: sinks.address() }, &[])?,
            None => launch(device, &join, &[])?,
        }
        apply(device, out, tokens, &[(&self.output, to)])
    }
}
