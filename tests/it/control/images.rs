//! What these tests push and plant, and the control socket as a command uses it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use boathouse::oci::{Algorithm, Digest};
use serde_json::Value;

use crate::client::Client;
use crate::lab::Lab;
use crate::program::Program;
use crate::support::{OCI_INDEX, OCI_MANIFEST};

/// A manifest that was pushed.
pub(super) struct Pushed {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
}

/// What [`Program::push_everything`] has pushed beside blobs.
pub(super) struct Images {
    /// `a:v1`, `a:same` and `a/b:v1`: config and 1,000 bytes.
    pub(super) common: Pushed,
    /// `a:v2`: config and 200 bytes.
    pub(super) own: Pushed,
    /// `a:multi`: lists the two children.
    pub(super) index: Pushed,
    /// Config and 300 bytes, config and 400 bytes.
    pub(super) children: [Pushed; 2],
    /// No tag: config and 500 bytes.
    pub(super) untagged: Pushed,
    /// No tag: about `common`, config and 60 bytes.
    pub(super) referrer: Pushed,
    /// `a-b:solo`: config and 700 bytes.
    pub(super) solo: Pushed,
}

impl Lab {
    /// How many differences a comparison finds.
    #[track_caller]
    pub(super) fn differences(&self) -> u64 {
        let out = self.run(&["rebuild", "--check", "--json"]);
        let found: Value = serde_json::from_str(&out.out).unwrap();
        let differences = found["differences"].as_u64().unwrap();
        let code = i32::from(differences > 0);
        assert_eq!(out.code, Some(code), "{}{}", out.out, out.talk);
        differences
    }

    /// A connection as a command makes it, with `line` already said.
    pub(super) fn ask(&self, line: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// Repositories of one tag each, as another registry leaves them: the server must be down.
    pub(super) fn plant(&self, count: usize) {
        let digest = Digest::of(Algorithm::Sha256, b"nothing");
        for number in 0..count {
            let tag = self.repository(&format!("many/{number}/_manifests/tags/v1/current"));
            fs::create_dir_all(&tag).unwrap();
            fs::write(tag.join("link"), digest.to_string()).unwrap();
        }
    }
}

impl Program {
    /// Pushes an image of one layer; without a tag by its digest.
    pub(super) async fn push(
        &self,
        name: &str,
        tag: Option<&str>,
        layer: &[u8],
        more: &str,
    ) -> Pushed {
        let client = Client::plain(self.address());
        let (manifest, digest) = client.push_image(name, tag, layer, more).await;
        let size_bytes = manifest.len() as u64;
        Pushed { digest, size_bytes }
    }

    pub(super) async fn push_everything(&self) -> Images {
        let common = self.push("a", Some("v1"), &[1; 1_000], "").await;
        self.push("a", Some("same"), &[1; 1_000], "").await;
        self.push("a/b", Some("v1"), &[1; 1_000], "").await;
        let own = self.push("a", Some("v2"), &[2; 200], "").await;
        let children = [
            self.push("a", None, &[3; 300], "").await,
            self.push("a", None, &[4; 400], "").await,
        ];
        let listed = children.each_ref().map(|child| {
            let Pushed { digest, size_bytes } = child;
            format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{digest}","size":{size_bytes}}}"#)
        });
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            listed.join(",")
        );
        let client = Client::plain(self.address());
        let multi = client.push_manifest("a", Some("multi"), OCI_INDEX, &index);
        let index = Pushed {
            digest: multi.await,
            size_bytes: index.len() as u64,
        };
        let untagged = self.push("a", None, &[5; 500], "").await;
        let subject = format!(
            r#","subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":{}}}"#,
            common.digest, common.size_bytes
        );
        let referrer = self.push("a", None, &[6; 60], &subject).await;
        let solo = self.push("a-b", Some("solo"), &[7; 700], "").await;
        Images {
            common,
            own,
            index,
            children,
            untagged,
            referrer,
            solo,
        }
    }
}

/// The next line of an answer; `None` at its end.
pub(super) fn next(answer: &mut BufReader<UnixStream>) -> Option<Value> {
    let mut line = String::new();
    let patience = Some(Duration::from_mins(1));
    answer.get_ref().set_read_timeout(patience).unwrap();
    // A socket that is closed while something lies unread in it is reset.
    answer.read_line(&mut line).ok()?;
    (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
}
