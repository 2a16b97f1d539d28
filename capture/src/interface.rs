// SPDX-License-Identifier: GPL-2.0-or-later
//! Interfaces of a capture that has several.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

/// Tells one interface of a capture from its others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InterfaceId {
    /// One that the capture describes, by its number in [`InterfaceNames`].
    Described(u32),
    /// One that frames name by its index on the host that captured.
    Index(u32),
    /// One that only the rest of its frames' header tells from others, hashed.
    Header(u64),
}

impl InterfaceId {
    pub(crate) fn of_header(header: &[u8]) -> Self {
        Self::Header(FixedState::default().hash_one(header))
    }
}

/// The interface that a user asks for: by the name that the capture has for it, or by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    described: InterfaceId,
    index: Option<InterfaceId>,
}

impl Wanted {
    pub(crate) fn is(&self, interface: InterfaceId) -> bool {
        interface == self.described || Some(interface) == self.index
    }
}

/// The names of a capture's interfaces. One that is described again, in another section, is the
/// same interface; one without a name is always another.
#[derive(Clone, Debug, Default)]
pub struct InterfaceNames(Vec<Option<String>>);

impl InterfaceNames {
    /// The number of an interface, which a new one gets.
    pub(crate) fn number(&mut self, name: Option<String>) -> u32 {
        let known = self
            .0
            .iter()
            .position(|known| name.is_some() && *known == name);
        let number = known.unwrap_or_else(|| {
            self.0.push(name);
            self.0.len() - 1
        });
        number as u32
    }

    /// The interface that `text` names.
    pub(crate) fn wanted(&mut self, text: &str) -> Wanted {
        Wanted {
            described: InterfaceId::Described(self.number(Some(text.to_owned()))),
            index: text.parse().ok().map(InterfaceId::Index),
        }
    }

    pub(crate) fn has_several(&self) -> bool {
        self.0.len() > 1
    }

    /// The name of an interface, if it has one.
    pub fn get(&self, interface: InterfaceId) -> Option<&str> {
        match interface {
            InterfaceId::Described(number) => self.0.get(number as usize)?.as_deref(),
            InterfaceId::Index(_) | InterfaceId::Header(_) => None,
        }
    }
}
