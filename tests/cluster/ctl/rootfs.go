package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"time"
)

// rootfs is one layer of an image: paths without the leading slash.
type rootfs struct {
	entries map[string]entry
}

type entry struct {
	mode    int64
	owner   int
	content []byte // of a file of ours
	from    string // the file on this machine that is copied
	link    string
	dir     bool
}

func newRootfs() *rootfs { return &rootfs{entries: map[string]entry{}} }

func (r *rootfs) put(path string, e entry) {
	path = merged(path)
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		if _, there := r.entries[dir]; !there {
			r.entries[dir] = entry{dir: true, mode: 0o755}
		}
	}
	r.entries[path] = e
}

func (r *rootfs) dir(path string, mode int64, owner int) {
	r.put(path, entry{dir: true, mode: mode, owner: owner})
}
func (r *rootfs) text(path, content string, mode int64) {
	r.put(path, entry{content: []byte(content), mode: mode})
}
func (r *rootfs) link(path, target string) { r.put(path, entry{link: target, mode: 0o777}) }

// merged is where a path lies with /bin, /lib and the like as links into /usr: see skeleton.
func merged(path string) string {
	path = strings.TrimPrefix(filepath.Clean(path), "/")
	for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
		if strings.HasPrefix(path, top+"/") {
			return "usr/" + path
		}
	}
	return path
}

// copy takes a file of this machine.
func (r *rootfs) copy(path, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	r.put(path, entry{from: from, mode: int64(info.Mode().Perm())})
	return nil
}

var library = regexp.MustCompile(`(/\S+) \(0x`)

// program copies a program, or a library, with the libraries it loads.
func (r *rootfs) program(path, from string) error {
	if err := r.copy(path, from); err != nil {
		return err
	}
	out, _ := exec.Command("ldd", from).CombinedOutput() // fails for static programs and scripts: nothing to copy then
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		if err := r.copy(m[1], m[1]); err != nil {
			return err
		}
	}
	return nil
}

// installed copies a program of this machine to where it lies here.
func (r *rootfs) installed(name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	return r.program("/usr/bin/"+name, path)
}

// tree copies a folder with its links, and the libraries of the programs in it.
func (r *rootfs) tree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return nil
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			r.link(path, target)
			return err
		default:
			return r.program(path, path)
		}
	})
}

// key changes when the layer would.
func (r *rootfs) key() string {
	var text bytes.Buffer
	for _, path := range r.paths() {
		e := r.entries[path]
		fmt.Fprintln(&text, path, e.mode, e.owner, e.link, e.dir, e.from)
		text.Write(e.content)
		if info, err := os.Stat(e.from); e.from != "" && err == nil {
			fmt.Fprintln(&text, info.Size(), info.ModTime().UnixNano())
		}
	}
	return contentKey(text.Bytes())
}

func (r *rootfs) paths() []string {
	paths := make([]string, 0, len(r.entries))
	for path := range r.entries {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	return paths
}

// write makes the layer's archive: sorted, without times, names of users or anything else of this machine.
func (r *rootfs) write(to io.Writer) error {
	archive := tar.NewWriter(to)
	for _, path := range r.paths() {
		if err := writeEntry(archive, path, r.entries[path]); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return archive.Close()
}

func writeEntry(archive *tar.Writer, path string, e entry) error {
	header := &tar.Header{Name: path, Mode: e.mode, Uid: e.owner, Gid: e.owner, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	var content io.Reader = bytes.NewReader(e.content)
	switch {
	case e.dir:
		header.Typeflag, header.Name = tar.TypeDir, path+"/"
	case e.link != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, e.link
	case e.from != "":
		file, err := os.Open(e.from)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		header.Typeflag, header.Size, content = tar.TypeReg, info.Size(), file
	default:
		header.Typeflag, header.Size = tar.TypeReg, int64(len(e.content))
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}
