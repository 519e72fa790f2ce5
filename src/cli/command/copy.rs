//! `boathouse copy`: an image to another tag or repository of this registry.
//!
//! Must not know how it is copied.

use std::process::ExitCode;

use anyhow::bail;

use crate::cli::installation::{Installation, Where};
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_do, unexpected};
use crate::cli::talk;
use crate::oci::{ImageName, Reference};
use crate::server::control::{Answer, Request};

/// `boathouse copy`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The image: `REPOSITORY:TAG` or `REPOSITORY@DIGEST`. What is about it (signatures) is copied too
    #[arg(value_name = "FROM")]
    from: ImageName,
    /// Where the copy goes: `REPOSITORY` or `REPOSITORY:TAG` [default tag: that of FROM]
    #[arg(value_name = "TO")]
    to: ImageName,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Copies an image.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (from, to) = (&arguments.from, &arguments.to);
    if from.reference.is_none() {
        bail!(
            "{from} is a repository, and one image is copied at a time\n\
             hint: write FROM as REPOSITORY:TAG; `boathouse list {from}` has the tags"
        );
    }
    let is_by_digest = matches!(from.reference, Some(Reference::Digest(_)));
    match &to.reference {
        Some(Reference::Digest(_)) => {
            bail!("a copy has the digest of its original\nhint: write TO as REPOSITORY:TAG")
        }
        None if is_by_digest => {
            bail!("FROM has no tag that the copy could have\nhint: write TO as REPOSITORY:TAG")
        }
        Some(Reference::Tag(_)) | None => {}
    }
    let installation = Installation::find_without_accounts(&arguments.place)?;
    let request = Request::Copy {
        from: from.clone(),
        to: to.clone(),
    };
    match ask_or_do(&installation, &request, &Meter::quiet())? {
        Answer::Copied(copied) => {
            let text = format!(
                "{}:{} is {}; manifests copied: {}, of which {} about it\n",
                copied.repository, copied.tag, copied.digest, copied.manifests, copied.referrers
            );
            talk::data(&copied, arguments.json, text)
        }
        answer => Err(unexpected(answer)),
    }
}
