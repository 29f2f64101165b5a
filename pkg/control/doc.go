// Package control is the daemon's control socket: varlink (https://varlink.org: JSON objects, each ended by a NUL, over a
// unix stream socket), the wire types of the interface io.checkproc, the server with its roles by peer credentials, and
// the client that checkprocctl uses. `varlinkctl introspect` and `varlinkctl call` (systemd 255 and newer) work on it.
package control
