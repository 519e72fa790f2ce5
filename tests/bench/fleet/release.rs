//! Two releases of a VM image, as a fleet pushes them.
//!
//! Must not know servers.

use crate::content::{Blob, MANIFEST, Noise};

/// Layers of one image: a disk of 58 GB in Tart's pieces.
pub(crate) const LAYERS: u64 = 261;
/// How many layers of the second release are new: every fifth.
const CHANGED_EVERY: usize = 5;
/// Layers below this are as large as in the field, whatever the size of the whole.
const LAYER_BYTES_MIN: u64 = 64 * 1024;

/// An image: its layers, and its manifest.
pub(crate) struct Release {
    pub(crate) layers: Vec<Layer>,
    pub(crate) manifest: String,
}

/// How a layer is pushed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// One PUT with all bytes: Tart.
    Whole,
    /// Several requests, each with its `Content-Range`: Tart with chunks, Geranos.
    Chunks,
}

/// A layer and how it is pushed.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Blob,
    pub(crate) way: Way,
}

impl Release {
    /// The first release, of about `size_bytes`. Its first two layers are the same one.
    pub(crate) fn first(noise: &Noise, run: u64, size_bytes: u64) -> Self {
        let numbers = std::iter::once(1).chain(1..LAYERS);
        Self::of(
            numbers
                .map(|number| layer(noise, run, number, size_bytes))
                .collect(),
        )
    }

    /// The next one: most layers are those of `earlier`.
    pub(crate) fn next(noise: &Noise, run: u64, size_bytes: u64, earlier: &Self) -> Self {
        let mut layers = earlier.layers.clone();
        for (number, changed) in (LAYERS..).zip(layers.iter_mut().step_by(CHANGED_EVERY)) {
            *changed = layer(noise, run, number, size_bytes);
        }
        Self::of(layers)
    }

    fn of(layers: Vec<Layer>) -> Self {
        let descriptor = |layer: &Layer| {
            serde_json::json!({
                "mediaType": "application/vnd.cirruslabs.tart.disk.v2",
                "digest": layer.blob.digest,
                "size": layer.blob.size_bytes(),
            })
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            // A layer stands in for the config, which is no larger for what is measured here.
            "config": descriptor(&layers[0]),
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        Self {
            layers,
            manifest: manifest.to_string(),
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        let sizes = self
            .layers
            .iter()
            .map(|layer| layer.blob.size_bytes() as u64);
        sizes.sum()
    }
}

/// Sizes differ from half to three halves of the mean, so that pushes do not go in step.
fn layer(noise: &Noise, run: u64, number: u64, size_bytes: u64) -> Layer {
    let mean = size_bytes / LAYERS;
    let size = (mean / 2 + mean * (number * 37 % 101) / 100).max(LAYER_BYTES_MIN);
    Layer {
        blob: noise.blob(run, number, size as usize + number as usize % 4_096),
        way: if number.is_multiple_of(2) {
            Way::Whole
        } else {
            Way::Chunks
        },
    }
}
