use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use wattle_core::Digest;

use crate::{Error, Result, Store, catalogue::names};

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// How many blobs.
    pub blobs: u64,
    /// Their size, in bytes.
    pub bytes: u64,
}

impl Store {
    /// Removes the blobs that no data set and no version of a model needs. Imports wait while it runs, and it for them.
    pub async fn gc(&self) -> Result<Collected> {
        let _alone = self.without_imports().await;
        let digests = {
            let mut tx = self.catalogue().read().await?;
            names(&mut tx, "SELECT digest FROM datasets UNION SELECT digest FROM versions").await?
        };
        // An unreadable digest may be one of those in use, so it stops the collection.
        let needed: HashSet<Digest> = digests
            .iter()
            .map(|digest| digest.parse().map_err(|error| Error::Corrupt(format!("nothing was removed: {error}"))))
            .collect::<Result<_>>()?;
        let mut collected = Collected { blobs: 0, bytes: 0 };
        for (digest, bytes) in self.blobs().list().await? {
            if !needed.contains(&digest) {
                self.blobs().delete(digest).await?;
                tracing::info!(%digest, bytes, "removed a blob that nothing needs");
                collected.blobs += 1;
                collected.bytes += bytes;
            }
        }
        Ok(collected)
    }
}
