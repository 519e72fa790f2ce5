//! Credentials that are not in the configuration: of the environment, of a profile, or of the instance.
//!
//! Must not know what they are used for. Invariant: nothing is searched before the first request.

use std::fmt;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_s3::config::Region;
use tokio::sync::OnceCell;

use super::connector::Connector;

/// Finds credentials, and renews those that end.
pub(super) struct Surroundings {
    connector: Connector,
    region: Region,
    chain: OnceCell<DefaultCredentialsChain>,
}

impl Surroundings {
    pub(super) fn new(connector: Connector, region: &str) -> Self {
        Self {
            connector,
            region: Region::new(region.to_owned()),
            chain: OnceCell::new(),
        }
    }

    async fn chain(&self) -> &DefaultCredentialsChain {
        let search = || async {
            let places = ProviderConfig::without_region()
                .with_region(Some(self.region.clone()))
                .with_http_client(self.connector.clone());
            let chain = DefaultCredentialsChain::builder().configure(places);
            chain.build().await
        };
        self.chain.get_or_init(search).await
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Surroundings")
    }
}

impl ProvideCredentials for Surroundings {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            let chain = self.chain().await;
            chain.provide_credentials().await
        })
    }
}
