package main

import (
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupName is the root of all of an instance's pods: two kubelets with one root kill each other's pods.
func cgroupName(name string) string { return "pilothouse-" + name }

// cgroupRoots are the hierarchies: one of version 2, or one for each controller of version 1.
func cgroupRoots() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	var roots []string
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err == nil && info.IsDir() {
			roots = append(roots, dir)
		}
	}
	return roots
}

func makeCgroups(name string) error {
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, cgroupName(name))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		// Version 1: an empty cpuset takes no process.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if value, err := os.ReadFile(filepath.Join(root, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), value, 0o644); err != nil {
					return err
				}
			}
		}
		// Version 2: children get only the controllers that are handed on.
		controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			continue
		}
		for _, c := range strings.Fields(string(controllers)) {
			os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+c), 0o644)
			os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
		}
	}
	return nil
}

// removeCgroups kills what is in an instance's cgroups and removes them.
func removeCgroups(name string) {
	for range 25 {
		left := false
		for _, root := range cgroupRoots() {
			left = !removeCgroup(filepath.Join(root, cgroupName(name))) || left
		}
		if !left {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	say("cgroups of %s remain", name)
}

func removeCgroup(top string) bool {
	var dirs []string
	filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	sort.Sort(sort.Reverse(sort.StringSlice(dirs)))
	for _, dir := range dirs {
		procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for _, line := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(line); err == nil && pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		syscall.Rmdir(dir)
	}
	_, err := os.Stat(top)
	return err != nil
}

// found is a process of an instance.
type found struct {
	pid  int
	name string
}

// processesOf finds an instance's components and shims, in whatever process namespace, by the folder in their arguments.
func processesOf(dir string) []found {
	var out []found
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		args := strings.Split(string(cmdline), "\x00")
		switch {
		case strings.HasPrefix(args[0], filepath.Join(dir, "bin")+"/"):
			out = append(out, found{pid, filepath.Base(args[0])})
		case strings.HasSuffix(args[0], shim) && slices.Contains(args, filepath.Join(dir, "containerd.sock")):
			out = append(out, found{pid, shim})
		}
	}
	return out
}

const shim = "containerd-shim-runc-v2"

// killShims ends the shims of one containerd, which outlive it by design.
func killShims(dir string) {
	for _, p := range processesOf(dir) {
		if p.name == shim {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// unmountAll takes away what is mounted below an instance's folder.
func unmountAll(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	var points []string
	for _, line := range strings.Split(string(mounts), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			points = append(points, strings.ReplaceAll(f[1], `\040`, " "))
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(points)))
	for _, point := range points {
		syscall.Unmount(point, syscall.MNT_DETACH)
	}
}

// cleanLeftovers removes what an instance that has ended has left outside of its folder, and what of its folder is only for
// the time it runs. It does nothing to others: everything is found by the instance's own paths and names.
func cleanLeftovers(dir string) {
	for _, p := range processesOf(dir) {
		syscall.Kill(p.pid, syscall.SIGKILL)
	}
	unmountAll(dir)
	removeCgroups(filepath.Base(dir))
	for _, part := range []string{"containerd/state", "cni-data", "kubelet/pods", "api.sock", "containerd.sock"} {
		os.RemoveAll(filepath.Join(dir, part))
	}
}
