package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

const (
	nodeName   = "node1"
	bridge     = "ph0"
	bridgeIP   = "10.90.0.1" // the node's and the DNS server's address
	podNet     = "10.90.0.0/16"
	podFirst   = "10.90.0.10"
	serviceNet = "10.91.0.0/16"
	serviceAPI = "10.91.0.1" // the Service `kubernetes`
	readyLimit = 120 * time.Second
)

var validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("the name %q must match %s", name, validName)
	}
	return nil
}

func envOr(key, otherwise string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return otherwise
}

// sourceDir is tests/cluster of the checkout that runs us.
func sourceDir() string { return envOr("PILOTHOUSE_CLUSTER_SOURCE", ".") }

// cacheDir holds what is built once for all checkouts: everything in it is named by its content's key.
func cacheDir() string {
	home, _ := os.UserHomeDir()
	return filepath.Join(envOr("XDG_CACHE_HOME", filepath.Join(home, ".cache")), "pilothouse", "cluster")
}

// stateRoot holds the running instances of this user.
func stateRoot() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("pilothouse-clusters-%d", os.Getuid()))
}

// stateOf is the folder of one instance. It must be short: the sockets in it are limited to 107 bytes.
func stateOf(name string) string { return filepath.Join(stateRoot(), name) }

func contentKey(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}
