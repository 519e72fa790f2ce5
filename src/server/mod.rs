//! HTTP: the only place that knows hyper.
/// What the config decides about serving.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `http.addr`: `HOST:PORT`, `:PORT` (every address, both families).
    pub address: String,
    /// `http.host`: `scheme://host[:port]`, what clients see.
    pub external_host: Option<String>,
    /// `http.prefix`
    pub prefix: String,
    /// `http.headers`: added to every answer.
    pub headers: Vec<(String, String)>,
    /// `http.trusted_proxies`: whose `X-Forwarded-*` are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `server.real_ip_header` and `server.real_ip_pos`, as docker_auth has them.
    pub real_ip: Option<RealIp>,
    /// `http.http2.disabled`
    pub http2_disabled: bool,
    /// `http.draintimeout`, at most 10 s by default.
    pub drain_secs: u64,
    /// `limits`
    pub limits: Limits,
}

/// Which header tells the client's address, and which of its comma-separated values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealIp {
    /// The header's name.
    pub header: String,
    /// 0 = first, -1 = last.
    pub position: i32,
}

/// The limits of connections and requests (each a key of `limits:`).
#[derive(Debug, Clone)]
pub struct Limits {
    /// `connections` (1,024)
    pub connections: usize,
    /// `stall_secs` (120): a body that moves no byte for so long is ended, in either direction.
    pub stall_secs: u64,
    /// `header_secs` (30): time for the head of a request.
    pub header_secs: u64,
    /// `handshake_secs` (10): time for the TLS handshake.
    pub handshake_secs: u64,
    /// `token_body_bytes` (64 KiB): the form posted to the token endpoint.
    pub token_body_bytes: usize,
    /// `floor_bytes_per_sec` (1,024): the least rate of a body while more than 80 % of the connections are taken.
    pub floor_bytes_per_sec: u64,
}
