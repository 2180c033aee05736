package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// image is an OCI image to be written as an archive. The same content gives the same bytes.
type image struct {
	reference  string
	layers     []*rootfs
	user       string
	entrypoint []string
	workingDir string
	env        []string
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

const ociType = "application/vnd.oci.image."

// key names the archive in the cache.
func (m image) key() string {
	head, _ := json.Marshal([]any{m.reference, m.user, m.entrypoint, m.workingDir, m.env})
	parts := [][]byte{head}
	for _, layer := range m.layers {
		parts = append(parts, []byte(layer.key()))
	}
	return contentKey(parts...)
}

// write makes the archive at path, whole or not at all.
func (m image) write(path string) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), "image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var blobs []descriptor
	var diffs []string
	for _, layer := range m.layers {
		blob, err := writeBlob(dir, ociType+"layer.v1.tar", layer.write)
		if err != nil {
			return err
		}
		blobs, diffs = append(blobs, blob), append(diffs, blob.Digest)
	}
	config, err := writeJSON(dir, ociType+"config.v1+json", m.config(diffs))
	if err != nil {
		return err
	}
	manifest, err := writeJSON(dir, ociType+"manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json", "config": config, "layers": blobs,
	})
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"io.containerd.image.name": m.reference, "org.opencontainers.image.ref.name": m.reference}
	return m.archive(path, dir, manifest, append(blobs, config, manifest))
}

func (m image) config(diffs []string) any {
	return map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": m.entrypoint, "Env": m.env, "User": m.user, "WorkingDir": m.workingDir},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}
}

func (m image) archive(path, dir string, manifest descriptor, blobs []descriptor) error {
	out, err := os.Create(filepath.Join(dir, "archive"))
	if err != nil {
		return err
	}
	defer out.Close()
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}})
	if err != nil {
		return err
	}
	archive := tar.NewWriter(out)
	if err := writeEntry(archive, "oci-layout", entry{content: []byte(`{"imageLayoutVersion":"1.0.0"}`), mode: 0o644}); err != nil {
		return err
	}
	if err := writeEntry(archive, "index.json", entry{content: index, mode: 0o644}); err != nil {
		return err
	}
	written := map[string]bool{}
	for _, blob := range blobs {
		name := blob.Digest[len("sha256:"):]
		if written[name] {
			continue
		}
		written[name] = true
		if err := writeEntry(archive, "blobs/sha256/"+name, entry{from: filepath.Join(dir, name), mode: 0o644}); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), path)
}

func writeJSON(dir, mediaType string, value any) (descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return descriptor{}, err
	}
	return writeBlob(dir, mediaType, func(to io.Writer) error {
		_, err := io.Copy(to, bytes.NewReader(data))
		return err
	})
}

// writeBlob writes a file of the folder and names it by its digest.
func writeBlob(dir, mediaType string, write func(io.Writer) error) (descriptor, error) {
	file, err := os.CreateTemp(dir, "blob-")
	if err != nil {
		return descriptor{}, err
	}
	defer file.Close()
	hash := sha256.New()
	if err := write(io.MultiWriter(file, hash)); err != nil {
		return descriptor{}, err
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return descriptor{}, err
	}
	digest := hex.EncodeToString(hash.Sum(nil))
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: size}, os.Rename(file.Name(), filepath.Join(dir, digest))
}
