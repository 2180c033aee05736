package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// process is one component of a running cluster, a child of the supervisor.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	status error
}

// start runs a program in a session of its own. The kernel kills it when the supervisor ends, however that ends.
// Call it from the main goroutine only: see init in main.go.
func (i *instance) start(name, path string, args ...string) error {
	log, err := os.OpenFile(i.file("log", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = i.dir, log, log
	cmd.Env = append(os.Environ(), "PATH="+i.file("bin")+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p := &process{name: name, cmd: cmd, log: log.Name(), exited: make(chan struct{})}
	go func() {
		p.status = cmd.Wait()
		close(p.exited)
		i.died <- p
	}()
	i.procs = append(i.procs, p)
	return nil
}

func (i *instance) process(name string) *process {
	for _, p := range i.procs {
		if p.name == name {
			return p
		}
	}
	return nil
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stop asks a component to end, and insists after the limit.
func (i *instance) stop(name string, limit time.Duration) {
	p := i.process(name)
	if p == nil || !p.alive() {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.cmd.Process.Kill()
		<-p.exited
	}
}

// waitFor polls until the check passes, and fails at once when the component has ended.
func (i *instance) waitFor(name string, check func() error) error {
	p := i.process(name)
	deadline := time.Now().Add(readyLimit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if !p.alive() {
			return fmt.Errorf("%s ended: %v\n%s", name, p.status, tail(p.log, 15))
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w\n%s", name, readyLimit, err, tail(p.log, 15))
		}
		select {
		case <-i.stopping:
			return errStopped
		case <-time.After(50 * time.Millisecond):
		}
	}
}

var errStopped = errors.New("asked to stop")

func tail(file string, lines int) string {
	data, _ := os.ReadFile(file)
	all := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// residentMiB is a process's memory, 0 when it is gone.
func residentMiB(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	var kib int
	if _, rest, found := bytes.Cut(status, []byte("VmRSS:")); found {
		fmt.Sscan(string(bytes.Fields(rest)[0]), &kib)
	}
	return kib / 1024
}

func (i *instance) file(parts ...string) string {
	return filepath.Join(append([]string{i.dir}, parts...)...)
}
