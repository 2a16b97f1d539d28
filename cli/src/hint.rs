// SPDX-License-Identifier: GPL-2.0-or-later
//! What to do about an error, in the words of the command line.

use std::error::Error;

use trafstat_store::store::StoreError;

use crate::store::OpenError;

/// An error, and what to do about it.
pub fn with_hint(error: &(dyn Error + 'static)) -> String {
    match hint(error) {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    }
}

/// The words that follow the error's own; none where these say what to do.
pub fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let store = match error.downcast_ref() {
        Some(OpenError::Store(error)) => Some(error),
        _ => error.downcast_ref(),
    };
    match store? {
        StoreError::Missing(_) => {
            Some("\"trafstat-store\" creates it with the first collection, --db names another")
        }
        StoreError::LoginDenied(_) => {
            Some("they are those of ~/.my.cnf, or of the file that --defaults-file names")
        }
        StoreError::NotRestorable(_) => {
            Some("\"backup\", \"rotate\" and \"export --restorable\" write such files")
        }
        _ => None,
    }
}
