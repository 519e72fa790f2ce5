//! `boathouse restore-tag`: points a tag at an image that it pointed at before, or lists those.
//!
//! Must not know how a tag is moved.

use std::process::ExitCode;

use anyhow::bail;

use super::list::shown_time;
use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_do, unexpected};
use crate::cli::talk;
use crate::oci::{Digest, ImageName, Reference};
use crate::registry::EarlierManifest;
use crate::server::control::{Answer, Request};

/// `boathouse restore-tag`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The tag
    #[arg(value_name = "REPOSITORY:TAG")]
    image: ImageName,
    /// The image to point it at; without it, those that it pointed at before are listed
    #[arg(value_name = "DIGEST")]
    digest: Option<Digest>,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// Restores a tag, or lists what it pointed at.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let image = &arguments.image;
    if !matches!(image.reference, Some(Reference::Tag(_))) {
        bail!("{image} names no tag\nhint: write REPOSITORY:TAG");
    }
    let installation = Installation::find_without_accounts(&arguments.place)?;
    let Some(digest) = arguments.digest else {
        let image = image.clone();
        let request = Request::Show { image };
        return match ask_or_do(&installation, &request, &Meter::quiet())? {
            Answer::Image(image) => {
                let text = earlier_text(&image.earlier);
                talk::data(&image.earlier, arguments.json, text)
            }
            Answer::Failed { what, hint: None } => bail!(
                "{what}\nhint: where the tag was deleted, `boathouse list {}` shows manifests without a tag; name one",
                arguments.image.repository
            ),
            answer => Err(unexpected(answer)),
        };
    };
    let request = Request::RestoreTag {
        image: image.clone(),
        digest,
    };
    match ask_or_do(&installation, &request, &Meter::quiet())? {
        Answer::Restored => {
            let text = format!("{image} is {digest}\n");
            let restored = serde_json::json!({ "image": image, "digest": digest });
            talk::data(&restored, arguments.json, text)
        }
        answer => Err(unexpected(answer)),
    }
}

fn earlier_text(earlier: &[EarlierManifest]) -> String {
    if earlier.is_empty() {
        return "the tag has pointed at nothing else\n".to_owned();
    }
    let row = |earlier: &EarlierManifest| {
        let is_present = if earlier.is_present { "" } else { "deleted" };
        [
            earlier.digest.clone(),
            shown_time(earlier.pushed_unix_secs),
            is_present.to_owned(),
        ]
    };
    let rows: Vec<_> = earlier.iter().map(row).collect();
    talk::columns(["digest", "pushed", ""], &rows)
}
