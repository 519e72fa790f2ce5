//! Uploads: how blobs come in.
//!
//! Source: distribution-spec "Pushing blobs"; DESIGN D2, D7. Must not know HTTP. Invariants: bytes are appended in order and
//! never interleaved; what was received survives a broken connection; a blob is linked only after its bytes are whole and
//! have the digest that the client named.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;

use super::commit::{Commit, discard};
use super::core::{Core, put_link};
use super::error::{BodyError, RegistryError};
use super::event::{Actor, Event};
use super::sessions::{
    Ended, EndedUploads, Entered, Kept, Owner, Progress, Sessions, UploadBusy, UploadFigures,
};
use crate::heartbeat::Heartbeat;
use crate::layout::{Place, Prefix, UploadId, upload_directory, uploads_directory};
use crate::oci::range::Sent;
use crate::oci::{Algorithm, Digest, RepositoryName};
use crate::store::{Step, StoreError, Upload};

/// A request's body: bytes as they come, or why no more will.
pub type Body = BoxStream<'static, Result<Bytes, BodyError>>;

/// A chunk as it arrives.
pub struct Chunk {
    /// Where the client says that it belongs; right after the bytes so far if it does not say.
    pub sent: Option<Sent>,
    /// `Content-Length`, where the client gives one; 0 where there is no body.
    pub length_bytes: Option<u64>,
    /// The bytes.
    pub body: Body,
}

impl Chunk {
    /// Whether it says where it belongs, or there is nothing in it to belong anywhere.
    fn is_placed(&self) -> bool {
        self.sent.is_some() || self.length_bytes == Some(0)
    }
}

/// How often sessions that have been idle for too long are looked for.
const CLOSE_PAUSE: Duration = Duration::from_secs(30);

/// The room of uploads.
pub struct Uploads {
    core: Arc<Core>,
    sessions: Sessions,
    heartbeat: Arc<Heartbeat>,
}

impl Uploads {
    /// `secret` marks upload sessions as ours.
    pub(super) fn new(core: &Arc<Core>, secret: &[u8]) -> Self {
        let clock = &core.clock;
        let open_uploads = core.settings.limits.open_uploads;
        Self {
            sessions: Sessions::new(secret, open_uploads, Arc::clone(clock)),
            heartbeat: Heartbeat::new("the closer of idle uploads", Arc::clone(clock)),
            core: Arc::clone(core),
        }
    }

    /// Of [`Uploads::close_idle`].
    pub fn heartbeat(&self) -> Arc<Heartbeat> {
        Arc::clone(&self.heartbeat)
    }

    /// How many sessions there are now.
    pub fn figures(&self) -> UploadFigures {
        self.sessions.figures()
    }

    /// Closes sessions that have been idle for too long; never returns. Their bytes stay.
    pub async fn close_idle(&self) {
        let _beating = self.heartbeat.begin();
        loop {
            self.heartbeat.rest_for(CLOSE_PAUSE);
            self.core.clock.sleep(CLOSE_PAUSE).await;
            self.heartbeat.beat();
            self.sessions.close_old();
        }
    }

    /// Lets the store remove what interrupted uploads have left; never returns.
    pub async fn maintain_store(&self) {
        if self.core.settings.readonly {
            return std::future::pending().await;
        }
        self.core.store.maintain().await;
    }

    /// Opens a session. `algorithm` is the one that the client announced (distribution-spec `digest-algorithm`).
    pub async fn begin(
        &self,
        name: &RepositoryName,
        owner: &Owner,
        algorithm: Option<Algorithm>,
    ) -> Result<UploadId, RegistryError> {
        self.core.check_writable()?;
        let id = self.new_upload_id(name, owner)?;
        self.sessions.admit(id, owner)?;
        let directory = upload_directory(name, id);
        let opened = self.core.store.open_upload(&directory, algorithm);
        let upload = match opened.await {
            Ok(upload) => upload,
            Err(error) => {
                self.sessions.forget(id);
                return Err(error.into());
            }
        };
        if let Ok((entered, _)) = self.sessions.enter(id).await {
            entered.leave(Kept::told(upload));
        }
        Ok(id)
    }

    /// Appends a chunk; returns how many bytes the session has then. What arrived before an error stays.
    pub async fn append(
        &self,
        name: &RepositoryName,
        id: UploadId,
        owner: &Owner,
        chunk: Chunk,
        actor: Actor<'_>,
    ) -> Result<u64, RegistryError> {
        self.core.check_writable()?;
        let (entered, mut kept) = self
            .enter_to_receive(name, id, owner, chunk.is_placed())
            .await?;
        let received = receive(&entered, kept.upload.as_mut(), chunk).await;
        // Bytes of an account that was removed meanwhile stay like those of a broken request: no client was told of them.
        let received = match received {
            Ok(()) => actor.confirm().await.map_err(RegistryError::from),
            failed => failed,
        };
        if matches!(received, Ok(()) | Err(RegistryError::OutOfOrder { .. })) {
            kept = Kept::told(kept.upload);
        }
        let persisted = keep(entered, kept).await;
        received?;
        persisted
    }

    /// How many bytes the session has.
    pub async fn offset(
        &self,
        name: &RepositoryName,
        id: UploadId,
        owner: &Owner,
    ) -> Result<u64, RegistryError> {
        if !self.sessions.is_genuine(id, name, owner) {
            return Err(RegistryError::UploadUnknown);
        }
        // A question is no work: a request that sends bytes goes on.
        if let Some(offset_bytes) = self.sessions.progress(id).await {
            return Ok(offset_bytes);
        }
        let (entered, kept) = self.enter_upload(name, id, owner).await?;
        let kept = Kept::told(kept.upload);
        let offset_bytes = kept.told_bytes;
        entered.leave(kept);
        Ok(offset_bytes)
    }

    /// Forgets the session and its bytes.
    pub async fn cancel(
        &self,
        name: &RepositoryName,
        id: UploadId,
        owner: &Owner,
    ) -> Result<(), RegistryError> {
        let (_entered, kept) = self.enter_upload(name, id, owner).await?;
        kept.upload.abort().await?;
        self.sessions.remember(id, Ended::Cancelled);
        Ok(())
    }

    /// Cancels all sessions of a repository, also those that a request is sending to. Sessions of another registry are only
    /// found.
    pub(super) async fn end_all(
        &self,
        name: &RepositoryName,
    ) -> Result<EndedUploads, RegistryError> {
        let root = uploads_directory(name);
        let mut directories = Vec::new();
        let add = |directory: &str| directories.push(directory.to_owned());
        self.core.each_directory(&root, add).await?;
        let mut ended = EndedUploads::default();
        for directory in directories {
            ended.count += 1;
            let Ok(id) = directory.parse::<UploadId>() else {
                let Ok(foreign) = format!("{root}{directory}/").parse::<Prefix>() else {
                    continue;
                };
                if let Ok(data) = foreign.key("data")
                    && let Some(meta) = self.core.find(&data).await?
                {
                    ended.bytes += meta.size_bytes;
                }
                ended.foreign.push(foreign);
                continue;
            };
            let (_entered, kept) = self.sessions.take_over(id).await;
            let upload = if let Some(kept) = kept {
                Some(kept.upload)
            } else {
                let directory = upload_directory(name, id);
                self.core.store.resume_upload(&directory).await?
            };
            if let Some(upload) = upload {
                ended.bytes += upload.offset_bytes();
                upload.abort().await?;
            }
            self.sessions.remember(id, Ended::Cancelled);
        }
        Ok(ended)
    }

    /// Appends the last chunk, which may be empty, and makes a blob of the session, if it has that digest.
    pub async fn finish(
        &self,
        name: &RepositoryName,
        id: UploadId,
        owner: &Owner,
        digest: &Digest,
        chunk: Chunk,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        self.core.check_writable()?;
        let (entered, mut kept) = match self
            .enter_to_receive(name, id, owner, chunk.is_placed())
            .await
        {
            Err(RegistryError::UploadInvalid) => {
                return self.finish_again(name, id, digest, actor).await;
            }
            other => other?,
        };
        if chunk.length_bytes != Some(0) {
            let before_bytes = kept.upload.offset_bytes();
            let length_bytes = chunk.length_bytes.map(|length| before_bytes + length);
            kept.upload.expect(digest, length_bytes);
        }
        if let Err(error) = receive(&entered, kept.upload.as_mut(), chunk).await {
            // Kept like after a broken PATCH: the client may go on where it stood.
            if matches!(error, RegistryError::OutOfOrder { .. }) {
                kept = Kept::told(kept.upload);
            }
            keep(entered, kept).await?;
            return Err(error);
        }
        let offset_bytes = kept.upload.offset_bytes();
        entered.tell(Progress::Finishing { offset_bytes });
        let told_bytes = kept.told_bytes;
        let finished = self
            .finish_received(name, id, digest, kept.upload, actor)
            .await;
        if finished.as_ref().is_err_and(RegistryError::is_busy) {
            // The client sends the same request again. What it was told decides where its bytes belong then.
            let directory = upload_directory(name, id);
            if let Ok(Some(upload)) = self.core.store.resume_upload(&directory).await {
                entered.leave(Kept { upload, told_bytes });
            }
        }
        finished
    }

    /// Receives a whole blob in one request (distribution-spec "Single POST").
    pub async fn receive_whole(
        &self,
        name: &RepositoryName,
        owner: &Owner,
        digest: &Digest,
        chunk: Chunk,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        self.core.check_writable()?;
        let id = self.new_upload_id(name, owner)?;
        let directory = upload_directory(name, id);
        let algorithm = Some(digest.algorithm());
        let mut upload = self.core.store.open_upload(&directory, algorithm).await?;
        upload.expect(digest, chunk.length_bytes);
        let Ok((entered, _)) = self.sessions.enter(id).await else {
            return Err(RegistryError::UploadUnknown);
        };
        if let Err(error) = receive(&entered, upload.as_mut(), chunk).await {
            // No client knows the name of this session, so none can take it up.
            discard(upload).await;
            return Err(error);
        }
        let finished = self.finish_received(name, id, digest, upload, actor).await;
        if finished.as_ref().is_err_and(RegistryError::is_busy) {
            // As above.
            if let Ok(Some(upload)) = self.core.store.resume_upload(&directory).await {
                discard(upload).await;
            }
            self.sessions.forget(id);
        }
        finished
    }

    async fn finish_received(
        &self,
        name: &RepositoryName,
        id: UploadId,
        digest: &Digest,
        mut upload: Box<dyn Upload>,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        let computed = upload.digest(digest.algorithm()).await?;
        if computed != *digest {
            // Bytes cannot be taken back from a session, so it can never become what the client named.
            discard(upload).await;
            self.sessions.remember(id, Ended::Cancelled);
            return Err(RegistryError::DigestMismatch {
                expected: *digest,
                computed,
            });
        }
        let size_bytes = upload.offset_bytes();
        let digest = *digest;
        let held = self.core.locks.hold(actor, name).changing().await?;
        // Keeps the sweep of empty link directories away while this one is filled.
        let mut held = held.sharing([&digest]).await?;
        let commit = Commit {
            upload: Some((upload, digest)),
            steps: vec![put_link(&Place::LayerLink(name, digest), &digest)],
            events: vec![Event::BlobLinked { digest, size_bytes }],
            ..Commit::default()
        };
        let committed = self.core.commit(&mut held, commit).await;
        let ended = match &committed {
            Ok(()) => Ended::Finished(digest),
            Err(RegistryError::Refused(_)) => Ended::Cancelled,
            // The session has not ended: it can be finished again.
            Err(error) if error.is_busy() => return committed,
            // Blob and link may be seen all the same, so a repeated PUT must not take them for the answer that was lost.
            Err(_) => Ended::Failed,
        };
        self.sessions.remember(id, ended);
        committed
    }

    /// The state of a genuine session is gone. That is success if it became the blob that the client names, and the answer was
    /// lost. The process that wrote the blob may have died before it was durable, so it is made durable now.
    async fn finish_again(
        &self,
        name: &RepositoryName,
        id: UploadId,
        digest: &Digest,
        actor: Actor<'_>,
    ) -> Result<(), RegistryError> {
        let may_be_it = match self.sessions.ended(id) {
            Some(Ended::Finished(finished)) => finished == *digest,
            Some(Ended::Cancelled | Ended::Failed) => false,
            None => true,
        };
        if !may_be_it {
            return Err(RegistryError::UploadInvalid);
        }
        let held = self.core.locks.hold(actor, name).changing().await?;
        let mut held = held.sharing([digest]).await?;
        let link = Place::LayerLink(name, *digest);
        let Some((target, _)) = self.core.linked_data(&link).await? else {
            return Err(RegistryError::UploadInvalid);
        };
        let commit = Commit {
            steps: vec![
                Step::Settle(Place::BlobData(target).key()),
                Step::Settle(link.key()),
            ],
            ..Commit::default()
        };
        self.core.commit(&mut held, commit).await
    }

    fn new_upload_id(
        &self,
        name: &RepositoryName,
        owner: &Owner,
    ) -> Result<UploadId, RegistryError> {
        let issued = self.sessions.issue(name, owner);
        issued.ok_or_else(|| {
            let source = std::io::Error::other("the system's random generator failed");
            StoreError::Io {
                doing: "name an upload session".into(),
                source,
            }
            .into()
        })
    }

    /// Takes up a session for its owner, alone.
    async fn enter_upload(
        &self,
        name: &RepositoryName,
        id: UploadId,
        owner: &Owner,
    ) -> Result<(Entered<'_>, Kept), RegistryError> {
        if !self.sessions.is_genuine(id, name, owner) {
            return Err(RegistryError::UploadUnknown);
        }
        self.sessions.use_of(id, owner);
        let entered = self.sessions.enter(id).await;
        let (entered, kept) = entered
            .map_err(|UploadBusy { offset_bytes }| RegistryError::UploadBusy { offset_bytes })?;
        if let Some(kept) = kept {
            return Ok((entered, kept));
        }
        let directory = upload_directory(name, id);
        let Some(upload) = self.core.store.resume_upload(&directory).await? else {
            self.sessions.forget(id);
            return Err(match self.sessions.ended(id) {
                Some(Ended::Cancelled) => RegistryError::UploadUnknown,
                Some(Ended::Finished(_) | Ended::Failed) | None => RegistryError::UploadInvalid,
            });
        };
        // What its client was told is not known any more.
        let kept = Kept::told(upload);
        entered.take_up(&kept);
        Ok((entered, kept))
    }

    /// Takes up a session to append a chunk at the offset that its client believes. After a broken request that may be before
    /// what has arrived. A client that was told of nothing sends all of it again (HTTP clients repeat a PUT by themselves). A
    /// client that was told of a part, and does not say where the next one belongs, is told first. A request that another one
    /// has overtaken is left over from a broken connection, and belongs nowhere.
    async fn enter_to_receive(
        &self,
        name: &RepositoryName,
        id: UploadId,
        owner: &Owner,
        is_placed: bool,
    ) -> Result<(Entered<'_>, Kept), RegistryError> {
        let (entered, kept) = self.enter_upload(name, id, owner).await?;
        let offset_bytes = kept.upload.offset_bytes();
        if !is_placed && entered.is_overtaken(&kept) {
            entered.leave(kept);
            return Err(RegistryError::OutOfOrder { offset_bytes });
        }
        if is_placed || kept.told_bytes == offset_bytes {
            return Ok((entered, kept));
        }
        if kept.told_bytes > 0 {
            entered.leave(Kept::told(kept.upload));
            return Err(RegistryError::OutOfOrder { offset_bytes });
        }
        kept.upload.abort().await?;
        let directory = upload_directory(name, id);
        let opened = self.core.store.open_upload(&directory, None).await?;
        let kept = Kept::told(opened);
        entered.take_up(&kept);
        Ok((entered, kept))
    }
}

/// Keeps what has arrived for the next request; tells how much it is. An upload that cannot be kept is taken up again from
/// what the store has of it.
async fn keep(entered: Entered<'_>, mut kept: Kept) -> Result<u64, RegistryError> {
    let offset_bytes = kept.upload.persist().await?;
    entered.leave(kept);
    Ok(offset_bytes)
}

/// Appends what the client sends, if it belongs there.
async fn receive(
    entered: &Entered<'_>,
    upload: &mut dyn Upload,
    chunk: Chunk,
) -> Result<(), RegistryError> {
    let Chunk {
        sent,
        length_bytes,
        mut body,
    } = chunk;
    let expected = sent.as_ref().map(Sent::length_bytes);
    if let (Some(expected), Some(length)) = (expected, length_bytes)
        && expected != length
    {
        let reason =
            format!("Content-Length is {length}, but Content-Range spans {expected} bytes");
        return Err(RegistryError::SizeInvalid(reason));
    }
    let offset_bytes = upload.offset_bytes();
    let belongs_here = sent.is_none_or(|sent| sent.0.start == offset_bytes);
    if !belongs_here && length_bytes.is_some() {
        return Err(RegistryError::OutOfOrder { offset_bytes });
    }
    let mut received = 0;
    loop {
        let piece = tokio::select! {
            piece = body.next() => piece,
            () = entered.taken_over() => Some(Err(BodyError::TakenOver)),
        };
        let Some(piece) = piece else {
            break;
        };
        let bytes = piece?;
        // A chunked body may turn out to be empty, and then it does not matter where it belongs.
        if !belongs_here && !bytes.is_empty() {
            return Err(RegistryError::OutOfOrder { offset_bytes });
        }
        received += bytes.len() as u64;
        if expected.is_some_and(|expected| received > expected) {
            return Err(RegistryError::SizeInvalid(
                "more bytes came than Content-Range spans".into(),
            ));
        }
        upload.append(bytes).await?;
        let offset_bytes = offset_bytes + received;
        entered.tell(Progress::Receiving { offset_bytes });
    }
    match expected {
        Some(expected) if received > 0 && received < expected => Err(RegistryError::SizeInvalid(
            format!("{received} bytes came, but Content-Range spans {expected}"),
        )),
        _ => Ok(()),
    }
}
