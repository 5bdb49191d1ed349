//! Latent attention on the device: the kernels of [`super::super::latent_attention`]'s layer, where queries are absorbed.

use super::super::config::Latent;
use super::super::latent_attention::{LatentAttention, Up};
use super::super::linear::HeadMaps;
use super::super::ModelError;
use super::map::{apply, bytes, Map, Norm, Rows, Target};
use super::workspace::Workspace;
use super::Pass;
use crate::gpu::params::{self, launch, Attention, JoinSplits, LatentRows};
use crate::gpu::{Address, Device, Memory};

/// A map of its own for each head.
struct Heads {
    weight: Memory,
    ty: u32,
    heads: usize,
    rows: usize,
    cols: usize,
}

impl Heads {
    fn new(device: &dyn Device, maps: &HeadMaps) -> Result<Self, ModelError> {
        let (stack, heads) = maps.parts();
        let weight = bytes(device, &stack.bytes)?;
        Ok(Self { weight, ty: stack.ty.number(), heads, rows: stack.rows / heads.max(1), cols: stack.cols })
    }

    /// The heads' rows of x, `x_head` values apart, to those of y.
    fn apply(&self, device: &dyn Device, (x, x_head): (Rows, usize), (y, y_head): (Rows, usize), tokens: usize) -> Result<(), ModelError> {
        let kernel = params::HeadMaps {
            weight: self.weight.address(),
            x: x.at,
            y: y.at,
            ty: self.ty,
            heads: self.heads as u32,
            rows: self.rows as u32,
            cols: self.cols as u32,
            tokens: tokens as u32,
            x_stride: x.stride as u32,
            x_head: x_head as u32,
            y_stride: y.stride as u32,
            y_head: y_head as u32,
            pad: 0,
        };
        Ok(launch(device, &kernel, &[])?)
    }
}

/// One layer with its cache.
pub(super) struct DeviceLatentAttention {
    sizes: Latent,
    query: Map,
    query_up: Option<(Norm, Map)>,
    down: Map,
    norm: Norm,
    key: Heads,
    value: Heads,
    output: Map,
    /// `[room, rank + turned]`
    rows: Memory,
    room: usize,
    f32: bool,
}

impl DeviceLatentAttention {
    /// `None`: keys and values are made, for which there are no kernels.
    pub(super) fn new(device: &dyn Device, layer: &LatentAttention) -> Result<Option<Self>, ModelError> {
        let Up::Absorbed { key, value, cache } = &layer.up else { return Ok(None) };
        let (sizes, room, f32) = (layer.sizes, cache.room(), cache.is_f32());
        let map = |linear| Map::new(device, linear);
        let query_up = layer.query_up.as_ref().map(|(norm, up)| Ok::<_, ModelError>((Norm::new(device, norm)?, map(up)?)));
        Ok(Some(Self {
            sizes,
            query: map(&layer.query)?,
            query_up: query_up.transpose()?,
            down: map(&layer.down)?,
            norm: Norm::new(device, &layer.norm)?,
            key: Heads::new(device, key)?,
            value: Heads::new(device, value)?,
            output: map(&layer.output)?,
            rows: device.alloc(room * (sizes.rank + sizes.turned) * if f32 { 4 } else { 2 })?,
            room,
            f32,
        }))
    }

    /// The rows of `h` are read, and the result goes to `to`.
    pub(super) fn forward(&self, pass: &Pass<'_>, to: Target) -> Result<(), ModelError> {
        let Pass { device, work, tokens, .. } = *pass;
        let Latent { heads, rank, plain, turned, value, scale, .. } = self.sizes;
        let (angles, _) = pass.turn(false);
        let width = rank + turned;
        let queries = work.heads(heads * (plain + turned));
        let down = match &self.query_up {
            None => {
                let down = work.wide(width);
                apply(device, pass.h, tokens, &[(&self.query, Target::set(queries)), (&self.down, Target::set(down))])?;
                down
            }
            Some((norm, up)) => {
                let latent = work.wide(self.query.rows + width);
                let down = latent.right(self.query.rows);
                apply(device, pass.h, tokens, &[(&self.query, Target::set(latent)), (&self.down, Target::set(down))])?;
                let normed = work.middle(self.query.rows);
                norm.apply(device, latent, normed, tokens, None)?;
                apply(device, normed, tokens, &[(up, Target::set(queries))])?;
                down
            }
        };
        let absorbed = work.middle(heads * width);
        let rows = LatentRows {
            q: queries.right(plain).at,
            down: down.at,
            norm: self.norm.weight(),
            angles,
            q_out: absorbed.at,
            rows: self.rows.address(),
            position: work.position(),
            tokens: tokens as u32,
            heads: heads as u32,
            rank: rank as u32,
            turned: turned as u32,
            context: self.room as u32,
            wide: u32::from(self.f32),
            q_stride: queries.stride as u32,
            q_head: (plain + turned) as u32,
            down_stride: down.stride as u32,
            eps: self.norm.eps,
        };
        launch(device, &rows, &[])?;
        self.key.apply(device, (queries, plain + turned), (absorbed, width), tokens)?;

        let seen = work.wide(heads * rank);
        let splits = Workspace::splits(tokens);
        let (tokens_, heads_, value_dim) = (tokens as u32, heads as u32, rank as u32);
        let of = Attention {
            q: absorbed.at,
            keys: self.rows.address(),
            values: Address::NONE,
            partial: work.partial,
            position: work.position(),
            tokens: tokens_,
            heads: heads_,
            groups: 1,
            key_dim: width as u32,
            value_dim,
            context: self.room as u32,
            wide: u32::from(self.f32),
            splits,
            scale,
            pad: 0,
        };
        launch(device, &params::LatentAttention { of }, &[])?;
        let join = JoinSplits {
            partial: work.partial,
            gate: Address::NONE,
            y: seen.at,
            tokens: tokens_,
            heads: heads_,
            value_dim,
            splits,
            gate_stride: 0,
            gate_head: 0,
        };
        launch(device, &join, &[])?;
        let values = work.heads(heads * value);
        self.value.apply(device, (seen, rank), (values, value), tokens)?;
        apply(device, values, tokens, &[(&self.output, to)])
    }
}
