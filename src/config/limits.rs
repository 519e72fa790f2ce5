//! `limits` and the other bounds: the one place of all limits, from which each module's settings take their own.
//!
//! Must not know what a limit protects. Invariant: the default of a limit is in the settings that hold it, its range here.

use super::key::{Family, InTemplate, Key, Number, distribution, keys, ours};
use super::reader::Reader;
use crate::{auth, registry, server};

/// A day, the most for any time limit of a connection.
const LIMIT_SECS_MAX: u64 = 86_400;
/// A month: each day within it is a directory to look into.
const GRACE_PERIOD_SECS_MAX: u64 = 30 * 86_400;
const MIB: u64 = 1024 * 1024;

const SERVER: server::Limits = server::Limits::DEFAULT;
const REGISTRY: registry::Limits = registry::Limits::DEFAULT;

keys! {
    table KEYS;

    /// Connections at a time.
    ///
    /// Each holds buffers and one or two file descriptors, so there are never more than the system's limit of open files
    /// allows. Above 80 % of it clients have shares ([security.md](security.md)).
    CONNECTIONS: Number<usize> = ours("limits.connections").number(SERVER.connections, 1..=1_000_000, "").in_template(InTemplate::Default);

    /// Seconds without a byte until a transfer is ended, in both directions.
    ///
    /// The whole time of a transfer is not limited. The server sees a reader's progress in steps of some hundred KiB: below
    /// about 8 KiB/s over a fast network, a client may count as one that has stopped.
    STALL_SECS: Number<u64> = ours("limits.stall_secs").number(SERVER.stall_secs, 1..=LIMIT_SECS_MAX, "seconds").commented();

    /// Seconds for the head of a request, and for an idle connection.
    ///
    /// A quarter while more than 80 % of the connections are taken.
    HEADER_SECS: Number<u64> = ours("limits.header_secs").number(SERVER.header_secs, 1..=LIMIT_SECS_MAX, "seconds").commented();

    /// Seconds for the TLS handshake.
    ///
    /// A quarter while more than 80 % of the connections are taken.
    HANDSHAKE_SECS: Number<u64> = ours("limits.handshake_secs").number(SERVER.handshake_secs, 1..=LIMIT_SECS_MAX, "seconds").commented();

    /// Longest form posted to the token endpoint, in bytes.
    TOKEN_BODY_BYTES: Number<usize> = ours("limits.token_body_bytes").number(SERVER.token_body_bytes, 1_024..=MIB, "bytes").commented();

    /// Least bytes per second of a transfer while more than 80 % of the connections are taken.
    FLOOR_BYTES_PER_SEC: Number<u64> = ours("limits.floor_bytes_per_sec").number(SERVER.floor_bytes_per_sec, 0..=MIB, "bytes per second").commented();

    /// Longest manifest, in bytes.
    ///
    /// The default is what the specification asks for. 4 MiB hold the manifest of a Geranos disk of about 1 TiB.
    MANIFEST_SIZE_BYTES: Number<usize> = ours("limits.manifest_size_bytes").number(REGISTRY.manifest_size_bytes, 1_024..=16 * MIB, "bytes").commented();

    /// Memory for manifests, forms and lists that are held whole, of all requests and answers together, in bytes.
    ///
    /// One client has half of it at most, which must do for the longest manifest.
    WHOLE_BODIES_BYTES: Number<usize> = ours("limits.whole_bodies_bytes").number(REGISTRY.whole_bodies_bytes, 32 * MIB..=1024 * 1024 * MIB, "bytes").commented();

    /// Seconds for a manifest or a form to arrive.
    ///
    /// A quarter while more than half of `limits.whole_bodies_bytes` is taken.
    WHOLE_BODY_SECS: Number<u64> = ours("limits.whole_body_secs").number(SERVER.whole_body_secs, 1..=LIMIT_SECS_MAX, "seconds").commented();

    /// Repositories that are searched for a blob to mount.
    ///
    /// Each costs two look-ups.
    MOUNT_PROBES: Number<usize> = ours("limits.mount_probes").number(REGISTRY.mount_probes, 0..=1_000_000, "").commented();

    /// Entries in one page of a list.
    LIST_PAGE: Number<usize> = ours("limits.list_page").number(REGISTRY.list_page, 1..=100_000, "").commented();

    /// Idle upload sessions kept open in memory; others are taken up again from the store.
    ///
    /// Each holds a file descriptor. Where there are more, the oldest of the account that has most is closed, and each after 5
    /// minutes; nothing that was sent is lost.
    OPEN_UPLOADS: Number<usize> = ours("limits.open_uploads").number(REGISTRY.open_uploads, 1..=1_000_000, "").commented();

    /// Seconds for which a deleted blob stays unknown to its repository while another one holds it, unless it is sent again.
    ///
    /// As long as the longest push takes; at most 30 days. See [security.md](security.md).
    GRACE_PERIOD_SECS: Number<u64> = ours("limits.grace_period_secs").number(REGISTRY.grace_period_secs, 0..=GRACE_PERIOD_SECS_MAX, "seconds").commented();

    /// Failed logins a minute for one account and address before the next are slowed; 0 = never.
    ///
    /// Ten times as many for one address.
    FAILED_LOGINS: Number<u32> = ours("limits.failed_logins").number(auth::Limits::FAILED_LOGINS, 0..=1_000_000, "a minute").commented();

    /// Entries in one page of the catalog. 0 is the default.
    CATALOG_PAGE: Number<usize> = distribution("catalog.maxentries").number(REGISTRY.catalog_page, 0..=100_000, "").commented();

    /// Tags in one page of a list of tags. 0 is the default.
    ///
    /// Without the key, `limits.list_page` counts, as it does for other lists.
    TAGS_PAGE: Number<usize> = distribution("tags.maxtags").number(REGISTRY.tags_page, 0..=100_000, "");
}

pub(super) const FAMILY: Family = Family {
    heading: "Limits",
    intro: "One limit has no key: an account may have begun 2,000 uploads that are not ended (without accounts: one address, of IPv6 one /64); beyond, the answer is 429. An upload that was not used for an hour does not count.\n\nThe limit of open files is raised at start as far as the system allows; below 1,280 there is a warning.",
    keys: KEYS,
    unread: &[],
};

pub(super) fn server(reader: &mut Reader<'_>) -> server::Limits {
    server::Limits {
        connections: reader.get(&CONNECTIONS),
        stall_secs: reader.get(&STALL_SECS),
        header_secs: reader.get(&HEADER_SECS),
        handshake_secs: reader.get(&HANDSHAKE_SECS),
        token_body_bytes: reader.get(&TOKEN_BODY_BYTES),
        floor_bytes_per_sec: reader.get(&FLOOR_BYTES_PER_SEC),
        whole_body_secs: reader.get(&WHOLE_BODY_SECS),
    }
}

pub(super) fn registry(reader: &mut Reader<'_>) -> registry::Limits {
    let list_page = reader.get(&LIST_PAGE);
    let tags_page = Key {
        kind: Number {
            default: list_page,
            ..TAGS_PAGE.kind
        },
        ..TAGS_PAGE
    };
    let or_default = |count: usize, default: usize| if count == 0 { default } else { count };
    registry::Limits {
        manifest_size_bytes: reader.get(&MANIFEST_SIZE_BYTES),
        whole_bodies_bytes: whole_bodies_bytes(reader),
        mount_probes: reader.get(&MOUNT_PROBES),
        list_page,
        tags_page: or_default(reader.get(&tags_page), REGISTRY.tags_page),
        catalog_page: or_default(reader.get(&CATALOG_PAGE), REGISTRY.catalog_page),
        open_uploads: reader.get(&OPEN_UPLOADS),
        grace_period_secs: reader.get(&GRACE_PERIOD_SECS),
    }
}

pub(super) fn whole_bodies_bytes(reader: &mut Reader<'_>) -> usize {
    reader.get(&WHOLE_BODIES_BYTES)
}

pub(super) fn failed_logins(reader: &mut Reader<'_>) -> u32 {
    reader.get(&FAILED_LOGINS)
}
