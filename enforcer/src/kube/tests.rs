//! The follower and the source against a scripted API server.
