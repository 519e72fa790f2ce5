//! Its place.
