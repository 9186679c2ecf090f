//! What the births of a connection have declared: the names and datatypes that later messages leave out.

use super::payload::Metric;
use super::{NODE, Name, Undecodable};
use std::collections::{BTreeMap, HashMap};

/// Metrics that one connection may have declared at once, over its node and all its devices. Their names stay
/// in memory as long as the connection: some 500 KiB at most.
pub const BORN_MAX: usize = 2_048;

/// The declarations of one connection's births. A new connection starts with none, as Sparkplug demands of
/// its nodes.
///
/// Bounds: [`BORN_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Births {
    /// By device; the node's own under [`NODE`].
    scopes: BTreeMap<String, Scope>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Scope {
    /// Name of ours to datatype.
    datatypes: HashMap<String, u32>,
    /// Alias to name of ours.
    aliases: HashMap<u64, String>,
}

impl Births {
    /// Takes the declarations of a birth in the place of earlier ones. A node's birth ends all its devices'
    /// too.
    ///
    /// # Errors
    /// Then nothing of this scope is declared: a guess would label values wrongly.
    pub(super) fn declare(&mut self, device: &str, metrics: &[Metric]) -> Result<(), Undecodable> {
        self.forget(device);
        let mut scope = Scope::default();
        for metric in metrics {
            let name = metric.name.as_deref().ok_or(Undecodable::BirthIncomplete)?;
            let datatype = metric.datatype.ok_or(Undecodable::BirthIncomplete)?;
            let name = super::name(device, name)?;
            let has_alias_of_another =
                metric.alias.is_some_and(|alias| scope.aliases.insert(alias, name.clone()).is_some());
            let is_of_another = self.scopes.values().any(|other| other.datatypes.contains_key(&name));
            if has_alias_of_another || is_of_another || scope.datatypes.contains_key(&name) {
                return Err(Undecodable::NameCollision(Name::of(&name)));
            }
            scope.datatypes.insert(name, datatype);
        }
        let born: usize = self.scopes.values().map(|other| other.datatypes.len()).sum();
        if born + scope.datatypes.len() > BORN_MAX {
            return Err(Undecodable::TooManyBorn);
        }
        self.scopes.insert(device.to_owned(), scope);
        Ok(())
    }

    /// Ends what a birth has begun.
    pub(super) fn forget(&mut self, device: &str) {
        if device == NODE {
            self.scopes.clear();
        } else {
            self.scopes.remove(device);
        }
    }

    /// The name of ours that an alias stands for.
    pub(super) fn by_alias(&self, device: &str, alias: u64) -> Option<&str> {
        self.scopes.get(device)?.aliases.get(&alias).map(String::as_str)
    }

    /// The datatype that a name of ours was declared with.
    pub(super) fn datatype(&self, device: &str, name: &str) -> Option<u32> {
        self.scopes.get(device)?.datatypes.get(name).copied()
    }

    /// Counts the declared metrics.
    #[cfg(test)]
    pub(in super::super) fn len(&self) -> usize {
        self.scopes.values().map(|scope| scope.datatypes.len()).sum()
    }
}
