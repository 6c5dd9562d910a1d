//! The inventory's files, read again: what differs is a change of the cluster like any other.

use super::{Agent, Changed, OrderError};
use crate::{inventory, world::Changes};

impl Agent {
    /// Reads the inventory again, and makes what has changed come true. Files with errors change
    /// nothing.
    pub fn refresh(&self) -> Result<Changed, OrderError> {
        let (paths, mesh) = &self.inventory;
        if paths.is_empty() {
            return Err(OrderError::NoFiles);
        }
        let cluster = inventory::file::read(paths, mesh.as_deref()).map_err(Box::new)?;
        let before = self.state().inventory.clone();
        let changes = Changes::between(&before.cluster, cluster);
        // It would have to be copied if it were held on to.
        drop(before);
        self.change(changes)
    }
}
