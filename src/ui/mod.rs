//! The place of the web page. Empty until there is one.
