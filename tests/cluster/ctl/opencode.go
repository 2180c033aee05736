package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// The agent's program, pinned by version and content.
const (
	opencodeVersion   = "1.18.33"
	opencodePackage   = "opencode-linux-x64"
	opencodeIntegrity = "sha512-q/t/3p2CTxOT9y2kvjesb/LZab2+1eqlhhWA02Be6mjTtmYtNBcBsrI5yDo4Fw7ZSPBW2oyMIGMNRqiKQjiAWw=="
)

// entrypoint is the contract of every agent image: put the program where the executor will find it.
const opencodeEntrypoint = `#!/bin/sh
set -eu
: "${TOOLS_DIR:?TOOLS_DIR says where the executor looks for its tools}"
mkdir -p "$TOOLS_DIR"
cp /opencode "$TOOLS_DIR/opencode.new"
chmod 755 "$TOOLS_DIR/opencode.new"
mv "$TOOLS_DIR/opencode.new" "$TOOLS_DIR/opencode"
`

func opencodeImage(string) (image, error) {
	program, err := opencodeProgram()
	if err != nil {
		return image{}, err
	}
	base, err := skeleton()
	if err != nil {
		return image{}, err
	}
	base.text("/entrypoint", opencodeEntrypoint, 0o755)
	r := newRootfs()
	err = r.copy("/opencode", program)
	return image{
		reference: "localhost/opencode:" + opencodeVersion, layers: []*rootfs{base, r}, user: fmt.Sprint(agentUser),
		workingDir: "/", entrypoint: []string{"/entrypoint"}, env: []string{searchPath},
	}, err
}

// opencodeProgram fetches the package once, with npm, and checks it against the pinned digest.
func opencodeProgram() (string, error) {
	dir := filepath.Join(cacheDir(), "opencode-"+opencodeVersion)
	program := filepath.Join(dir, "opencode")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	began := time.Now()
	tmp, err := os.MkdirTemp(dir, "fetch-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	pack := exec.Command("npm", "pack", "--silent", opencodePackage+"@"+opencodeVersion)
	pack.Dir = tmp
	if err := runWatched(pack, func(string) {}); err != nil {
		return "", fmt.Errorf("npm pack: %w", err)
	}
	if err := extractProgram(filepath.Join(tmp, opencodePackage+"-"+opencodeVersion+".tgz"), filepath.Join(tmp, "opencode")); err != nil {
		return "", err
	}
	say("opencode %s fetched in %s", opencodeVersion, took(began))
	return program, os.Rename(filepath.Join(tmp, "opencode"), program)
}

func extractProgram(archive, to string) error {
	file, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer file.Close()
	hash := sha512.New()
	if _, err := io.Copy(hash, file); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != opencodeIntegrity {
		return fmt.Errorf("%s has the digest %s, not the pinned %s", filepath.Base(archive), got, opencodeIntegrity)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	for entries := tar.NewReader(unzipped); ; {
		header, err := entries.Next()
		if err != nil {
			return fmt.Errorf("no bin/opencode in the package: %w", err)
		}
		if header.Name != "package/bin/opencode" {
			continue
		}
		out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, entries); err != nil {
			return err
		}
		return out.Close()
	}
}
