//! The DNS configuration that the kubelet sends when it has no cluster DNS: the one of the node.
//!
//! Source: kubernetes pkg/kubelet/network/dns/dns.go, `GetPodDNS`.

use std::path::Path;

use cri_proto::runtime::v1::DnsConfig;

/// The default of the kubelet's `resolvConf`.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The maximum number of name servers: those that the C library reads.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;

/// Returns the DNS configuration of the node; an empty one when it cannot be read.
pub(super) fn node_config() -> DnsConfig {
    read(Path::new(RESOLV_CONF))
}

fn read(path: &Path) -> DnsConfig {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "failed to read the DNS configuration of the node");
            DnsConfig::default()
        }
    }
}

/// Parses resolv.conf(5). As in the C library, the last `search` and the last `options` line take effect.
fn parse(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_servers_searches_and_options() {
        let text = "# by hand\nnameserver 10.0.0.1\nnameserver 10.0.0.2 ; two\nsearch a.example\nsearch b.example c.example\n\
                    options ndots:5 edns0\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n";
        let config = parse(text);
        assert_eq!(config.servers, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(config.searches, ["b.example", "c.example"]);
        assert_eq!(config.options, ["ndots:5", "edns0"]);
    }

    #[test]
    fn a_node_without_the_file_has_no_configuration() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(&directory.path().join("resolv.conf")), DnsConfig::default());
    }
}
