package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// cmdUp starts a supervisor in the background and shows what it says until it is ready.
func cmdUp(o options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"run", "--background", "--name", o.name}
	if o.node {
		args = append(args, "--node")
	}
	if o.noScheduler {
		args = append(args, "--no-scheduler")
	}
	cmd := exec.Command(self, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	shown := make(chan struct{})
	go func() {
		io.Copy(os.Stderr, stderr)
		close(shown)
	}()
	var r ready
	if err := json.NewDecoder(bufio.NewReader(stdout)).Decode(&r); err != nil {
		<-shown
		cmd.Wait()
		return fmt.Errorf("%s did not come up", o.name)
	}
	fmt.Println(r.Kubeconfig)
	return nil
}

func cmdDown(o options) error {
	dir := stateOf(o.name)
	if !running(dir) {
		say("%s is not running", o.name)
		return nil
	}
	conn, err := net.Dial("unix", filepath.Join(dir, "down.sock"))
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", o.name, err)
	}
	io.Copy(io.Discard, conn)
	for range 100 {
		if !running(dir) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%s did not end", o.name)
}

func cmdReset(o options) error {
	names := []string{o.name}
	if o.all {
		names = instanceNames()
	}
	for _, name := range names {
		if err := cmdDown(options{name: name}); err != nil {
			return err
		}
		cleanLeftovers(stateOf(name))
		if err := remove(stateOf(name)); err != nil {
			return err
		}
	}
	return nil
}

func instanceNames() []string {
	var names []string
	entries, _ := os.ReadDir(stateRoot())
	for _, e := range entries {
		if e.IsDir() && validName.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names
}

// sweep removes what temporary clusters of dead runs have left.
func sweep() {
	for _, name := range instanceNames() {
		dir := stateOf(name)
		if _, err := os.Stat(filepath.Join(dir, "temporary")); err == nil && !running(dir) {
			cleanLeftovers(dir)
			remove(dir)
		}
	}
}

func cmdKubeconfig(o options) error {
	path := filepath.Join(stateOf(o.name), "admin.kubeconfig")
	if !running(stateOf(o.name)) {
		return fmt.Errorf("%s is not running; start it with: cluster up --name %s", o.name, o.name)
	}
	fmt.Println(path)
	return nil
}

func cmdStatus(o options) error {
	names := instanceNames()
	for _, name := range names {
		dir := stateOf(name)
		if !running(dir) {
			fmt.Printf("%s: stopped, state in %s\n", name, dir)
			continue
		}
		fmt.Printf("%s: running, KUBECONFIG=%s\n", name, filepath.Join(dir, "admin.kubeconfig"))
		for _, p := range processesOf(dir) {
			fmt.Printf("  %-26s pid %-7d %4d MiB\n", p.name, p.pid, residentMiB(p.pid))
		}
	}
	if len(names) == 0 {
		fmt.Println("no clusters")
	}
	return nil
}
