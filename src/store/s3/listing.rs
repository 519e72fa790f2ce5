//! Listings of a bucket, and what shows whether they would be another.
//!
//! With a delimiter a bucket's order is that of `<group>/`, which is the order of the seam. Must not know what is listed.
//! Invariant: a page is asked for when the reader comes to it.

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};

use super::requests::{Bucket, From, Listed};
use crate::layout::{OWN_DIRECTORY, Prefix};
use crate::oci::{Algorithm, Hasher};
use crate::store::{Depth, Entry, Fingerprint, Listing, StoreError};

impl Bucket {
    pub(super) fn listing(&self, prefix: &str, depth: Depth) -> Listing {
        // What is Boathouse's own is not shown from above.
        let is_hidden = prefix.is_empty();
        let own = format!("{OWN_DIRECTORY}/");
        let items = self.items(prefix, depth);
        let shown = items.try_filter_map(move |item| {
            // Some programs put an empty object in the place of a directory.
            let is_marker = item.version.is_some() && item.key.ends_with('/');
            let is_own = is_hidden && item.key.starts_with(&own);
            let shown = !is_marker && !is_own;
            future::ok(shown.then_some(Entry { key: item.key }))
        });
        shown.boxed()
    }

    /// Everything below `prefix`, page by page.
    pub(super) fn items(
        &self,
        prefix: &str,
        depth: Depth,
    ) -> impl futures_util::Stream<Item = Result<Listed, StoreError>> + Send + use<> {
        let (bucket, prefix) = (self.clone(), prefix.to_owned());
        let pages = stream::try_unfold(Some(From::Start), move |from| {
            let (bucket, prefix) = (bucket.clone(), prefix.clone());
            async move {
                let Some(from) = from else {
                    return Ok(None);
                };
                let page = bucket.list(&prefix, depth, &from).await?;
                Ok(Some((page.items, page.next)))
            }
        });
        pages
            .map_ok(|items| stream::iter(items.into_iter().map(Ok)))
            .try_flatten()
    }

    /// Of all keys below `prefixes` and their versions.
    pub(super) async fn fingerprint(&self, prefixes: &[Prefix]) -> Result<Fingerprint, StoreError> {
        let looks = prefixes.iter().cloned().map(|prefix| async move {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut items = std::pin::pin!(self.items(prefix.as_str(), Depth::All));
            while let Some(item) = items.try_next().await? {
                let version = item.version.unwrap_or_default();
                hasher.update(format!("{}\n{}\n", item.key, version.0).as_bytes());
            }
            Ok::<_, StoreError>(hasher.finish().to_string())
        });
        let values = future::try_join_all(looks).await?;
        Ok(Fingerprint {
            value: values.join(" "),
            is_settled: true,
        })
    }
}
