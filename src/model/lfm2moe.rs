//! `lfm2moe`: LFM2-8B-A1B, LFM2-24B-A2B and LFM2.5-8B-A1B (Liquid AI, LFM2 Technical Report, arXiv 2511.23404).
//!
//! Most layers are short convolutions ([`super::short_conv`]), the others grouped-query attention with norms of queries and keys per head and a
//! rotation of the whole head; the file says which by the number of key heads, 0 for a convolution. Feed-forwards are those of
//! [`super::deepseek2`], without an expert that every token uses.

use super::attention::{Form, QkNorm, SelfAttention};
use super::config::{Hybrid, ModelConfig};
use super::decoder::{After, Decoder, Layer, Mixer, Parts};
use super::deepseek2::feed_forward;
use super::short_conv::{ConvWeights, ShortConv};
use super::weights::Weights;
use super::{LoadSettings, ModelError};
use crate::experts::store::ExpertStore;
use crate::kernels::convolution::by_tap;

/// The model and the place of its experts.
pub(crate) fn load(weights: &Weights<'_>, config: &ModelConfig, settings: &LoadSettings) -> Result<(Decoder, ExpertStore), ModelError> {
    let Some(hybrid) = &config.hybrid else {
        return Err(ModelError::MissingKey { file: weights.file.clone(), key: format!("{}.shortconv.l_cache", config.arch) });
    };
    let mut layers = Vec::new();
    let mut experts = Vec::new();
    for (block, convolves) in hybrid.recurrent.iter().enumerate() {
        let norm = |part: &str| weights.norm(&format!("blk.{block}.{part}"), config);
        layers.push(Layer {
            mixer_norm: norm("attn_norm")?,
            mixer: if *convolves {
                Mixer::ShortConv(Box::new(short_conv(weights, config, hybrid, block)?))
            } else {
                let form = Form { norm: Some(QkNorm::PerHead), ..Form::default() };
                Mixer::Attention(Box::new(SelfAttention::load(weights, config, settings, block, form)?))
            },
            ff_norm: norm("ffn_norm")?,
            feed_forward: feed_forward(weights, config, block, &mut experts)?,
            after: After::default(),
        });
    }
    let store = ExpertStore { layers: experts, experts: config.experts, top_k: config.top_k, hidden: config.hidden };
    // The converter's table of names takes the last norm for one of the embeddings (llama.cpp: LLM_TENSOR_OUTPUT_NORM_LFM2).
    let norm = if weights.has("token_embd_norm.weight") { "token_embd_norm" } else { "output_norm" };
    Ok((Decoder::new(Parts::with_norm(weights, config, norm)?, layers, config, settings), store))
}

fn short_conv(weights: &Weights<'_>, config: &ModelConfig, hybrid: &Hybrid, block: usize) -> Result<ShortConv, ModelError> {
    let name = |part: &str| format!("blk.{block}.shortconv.{part}");
    let hidden = config.hidden;
    if weights.has(&name("conv.bias")) {
        return Err(ModelError::Extra { file: weights.file.clone(), tensor: name("conv.bias"), what: "a bias of a convolution" });
    }
    let parts = ConvWeights {
        input: weights.linear(&name("in_proj"), hidden, 3 * hidden)?,
        taps: by_tap(&weights.stack(&name("conv.weight"), hybrid.width, hidden)?, hidden),
        output: weights.linear(&name("out_proj"), hidden, hidden)?,
    };
    Ok(ShortConv::new(parts, hidden, hybrid.snapshots()))
}
