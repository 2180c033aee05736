package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// kwokStages are those of the module itself that make nodes and pods live: without any, kwok ends with "no stages found".
var kwokStages = []string{
	"kustomize/stage/node/fast/node-initialize.yaml", "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
	"kustomize/stage/pod/fast/pod-ready.yaml", "kustomize/stage/pod/fast/pod-complete.yaml", "kustomize/stage/pod/fast/pod-delete.yaml",
}

// cmdFakeNodes makes the number of nodes given (default 1) and runs KWOK for them and their pods, for a cluster that runs,
// until standard input is closed.
func cmdFakeNodes(o options) error {
	count := 1
	if len(o.args) > 0 {
		if _, err := fmt.Sscan(o.args[0], &count); err != nil {
			return fmt.Errorf("%s is no number of nodes", o.args[0])
		}
	}
	if !running(stateOf(o.name)) {
		return fmt.Errorf("%s is not running", o.name)
	}
	path, err := program("kwok")
	if err != nil {
		return err
	}
	i := newInstance(o)
	if err := i.loadPorts(); err != nil {
		return err
	}
	stages, err := stagesBeside(path)
	if err != nil {
		return err
	}
	kubeconfig, err := i.kubeconfig("kwok", "system:kwok")
	if err != nil {
		return err
	}
	admin, err := i.admin()
	if err != nil {
		return err
	}
	for n := range count {
		name := fmt.Sprintf("fake-%d", n)
		if err := admin.applyNode(name, render("fake-node.yaml", map[string]string{"Name": name})); err != nil {
			return err
		}
	}
	go i.stopAtEOF()
	i.stopAtSignals()
	if err := i.start("kwok", path, "--config", stages, "--kubeconfig", kubeconfig,
		"--manage-nodes-with-annotation-selector=pilothouse.dev/fake=true", "--cidr=10.100.0.0/16", "--node-lease-duration-seconds=40"); err != nil {
		return err
	}
	defer i.stop("kwok", 2*time.Second)
	for n := range count {
		if err := i.waitFor("kwok", func() error { return admin.nodeReady(fmt.Sprintf("fake-%d", n)) }); err != nil {
			return err
		}
	}
	fmt.Println("ready")
	select {
	case <-i.stopping:
		return nil
	case p := <-i.died:
		return fmt.Errorf("kwok ended by itself: %v\n%s", p.status, tail(p.log, 15))
	}
}

// stagesBeside is the path of a file beside the program with the stages of the module that it was built from. It is made
// with the program: Go's cache of modules may be gone by the time that it runs.
func stagesBeside(program string) (string, error) {
	path := filepath.Join(filepath.Dir(program), "stages-"+contentKey([]byte(strings.Join(kwokStages, " ")))+".yaml")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok")
	list.Dir, list.Env = filepath.Join(sourceDir(), "modules", "kwok"), append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	out, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("kwok's module: %w", err)
	}
	var all bytes.Buffer
	for _, stage := range kwokStages {
		text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), stage))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&all, "---\n%s\n", text)
	}
	if err := os.WriteFile(path+".new", all.Bytes(), 0o644); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}
