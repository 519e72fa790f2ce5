//! The place of the index, which will hold what a store cannot list cheaply: sorted repositories and tags, edges of
//! manifests, referrers. Empty until then: `registry::listings` walks the store.
