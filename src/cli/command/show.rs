//! `boathouse show`: what one image is made of, and what its tag pointed to before.
//!
//! Must not know where the facts come from. Invariant: the answer goes to stdout, as text or, with `--json`, as the one JSON
//! value that the server sent.

use std::fmt::Write as _;
use std::process::ExitCode;

use indicatif::HumanBytes;

use super::du::known;
use super::list::{print_content, shown_kind, shown_time};
use crate::cli::installation::Where;
use crate::cli::progress::Meter;
use crate::cli::running::{ask_or_look, note_source, unexpected};
use crate::cli::talk;
use crate::oci::ImageName;
use crate::registry::{EarlierManifest, Image, ImageChild, ImagePart};
use crate::server::control::{Answer, Request};

/// `boathouse show`
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    place: Where,
    /// The image; without a tag or digest, the tags of the repository, as `list` prints them
    #[arg(value_name = "REPOSITORY[:TAG|@DIGEST]")]
    image: ImageName,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Shows one image.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let image = arguments.image.clone();
    let request = Request::Show { image };
    match ask_or_look(&arguments.place, &request, &Meter::quiet())? {
        Answer::Image(image) => {
            note_source(image.from_store.as_deref());
            talk::data(&*image, arguments.json, text_of(&image))
        }
        Answer::Content(content) => print_content(&content, arguments.json),
        answer => Err(unexpected(answer)),
    }
}

fn text_of(image: &Image) -> String {
    let Image {
        repository: _,
        digest,
        tags,
        media_type,
        artifact_type,
        platforms,
        bytes,
        unique_bytes,
        pushed_unix_secs,
        subject,
        manifests,
        blobs,
        referrers,
        earlier,
        from_store: _,
    } = image;
    let tags = if tags.is_empty() {
        "none".to_owned()
    } else {
        tags.join(", ")
    };
    let mut text = format!(
        "digest   {digest}\ntags     {tags}\ntype     {}\nfor      {}\n\
         size     {}; free once collected, if it is deleted: {}\npushed   {}\n",
        media_type.escape_default(),
        shown_kind(platforms, artifact_type.as_deref()),
        HumanBytes(*bytes),
        known(*unique_bytes),
        shown_time(*pushed_unix_secs),
    );
    // Writing into a String cannot fail.
    if let Some(subject) = subject {
        let _ = writeln!(text, "about    {subject}");
    }
    let child = |child: &ImageChild| {
        let platform = child.platform.clone().unwrap_or_else(|| "-".to_owned());
        let is_present = if child.is_present { "" } else { "missing" };
        [child.digest.clone(), platform, is_present.to_owned()]
    };
    let blob = |blob: &ImagePart| {
        let kind = blob.media_type.escape_default().to_string();
        [
            blob.digest.clone(),
            HumanBytes(blob.bytes).to_string(),
            kind,
        ]
    };
    let before = |earlier: &EarlierManifest| {
        let is_present = if earlier.is_present { "" } else { "deleted" };
        let pushed = shown_time(earlier.pushed_unix_secs);
        [earlier.digest.clone(), pushed, is_present.to_owned()]
    };
    let rows: Vec<_> = manifests.iter().map(child).collect();
    section(&mut text, ["manifest", "for", ""], &rows);
    let rows: Vec<_> = blobs.iter().map(blob).collect();
    section(&mut text, ["blob", "size", "type"], &rows);
    let rows: Vec<_> = referrers.iter().map(|one| [one.clone()]).collect();
    section(&mut text, ["about this image"], &rows);
    let rows: Vec<_> = earlier.iter().map(before).collect();
    section(&mut text, ["earlier under this tag", "pushed", ""], &rows);
    text
}

fn section<const COLUMNS: usize>(
    text: &mut String,
    head: [&str; COLUMNS],
    rows: &[[String; COLUMNS]],
) {
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&talk::columns(head, rows));
    }
}
