//! What the controller serves: health, metrics, the sidecars' connection.
