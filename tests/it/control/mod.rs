//! Commands that ask a running server through its control socket, or do the same themselves where none is running.

mod accounts;
mod backup;
mod deleting;
mod elsewhere;
mod figures;
mod images;
mod listing;
mod rebuild;
mod socket;
mod status;
