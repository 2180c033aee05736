package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// insideVar is set for everything that runs in namespaces of ours.
const insideVar = "PILOTHOUSE_CLUSTER_NAMESPACES"

func inNamespaces() bool { return os.Getenv(insideVar) != "" }

// isolated is a command in new network, mount and process namespaces, started through `init`. When init ends, the kernel
// kills every process in there, and with the last one go the network, the mounts and the firewall's rules.
func isolated(args ...string) (*exec.Cmd, error) {
	if os.Getuid() != 0 {
		return nil, fmt.Errorf("new network and mount namespaces need root")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{"init", "--"}, args...)...)
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	return cmd, nil
}

// cmdInit is the first process of the namespaces: it prepares them, runs one command, and reaps orphans.
func cmdInit(o options) error {
	if os.Getpid() != 1 || len(o.args) == 0 {
		return fmt.Errorf("init is for the start of namespaces only")
	}
	if err := prepareNamespaces(); err != nil {
		return err
	}
	path, err := exec.LookPath(o.args[0])
	if err != nil {
		return err
	}
	child, err := os.StartProcess(path, o.args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		for s := range signals {
			if s != syscall.SIGINT { // a terminal sends it to the whole group by itself
				child.Signal(s)
			}
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == nil && pid == child.Pid {
			return exitOf(status)
		}
	}
}

func exitOf(status syscall.WaitStatus) error {
	if status.Signaled() {
		return exitStatus(128 + int(status.Signal()))
	}
	if status.ExitStatus() != 0 {
		return exitStatus(status.ExitStatus())
	}
	return nil
}

func prepareNamespaces() error {
	if err := syscall.Mount("none", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("private mounts: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("/proc: %w", err)
	}
	// containerd's shims, the CNI library and iptables keep global state here.
	for _, dir := range []string{"/run", "/var/lib/cni"} {
		if _, err := os.Stat(dir); err == nil {
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
				return fmt.Errorf("%s: %w", dir, err)
			}
		}
	}
	return runWatched(exec.Command("ip", "link", "set", "lo", "up"), func(string) {})
}

// cmdInNetns runs a command in namespaces, where clusters with a node are then started in the same ones.
func cmdInNetns(o options) error {
	if len(o.args) == 0 {
		return fmt.Errorf("needs a command")
	}
	sweep()
	defer sweep()
	if err := prepareImages(); err != nil {
		return err
	}
	cmd, err := isolated(o.args...)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			if s != syscall.SIGINT {
				cmd.Process.Signal(s)
			}
		}
	}()
	cmd.Wait()
	return exitOf(cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// runOutside starts the supervisor in namespaces, forwards the API server's port to it, and cleans up after it.
func (i *instance) runOutside(o options) error {
	defer cleanLeftovers(i.dir)
	listener, err := i.listenForAPI()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{self, "run", "--node", "--name", i.name, "--api-port", strconv.Itoa(i.ports["api"])}
	if o.background {
		args = append(args, "--background")
	}
	cmd, err := isolated(args...)
	if err != nil {
		return err
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	go forward(listener, func() (net.Conn, error) { return net.Dial("unix", i.file("api.sock")) })
	go func() {
		<-i.stopping
		stdin.Close()
	}()
	var r ready
	if json.NewDecoder(stdout).Decode(&r) == nil {
		if o.background {
			i.logToFile()
		}
		json.NewEncoder(os.Stdout).Encode(r)
	}
	cmd.Wait()
	return exitOf(cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// listenForAPI takes the port at which the API server will be seen on both sides.
func (i *instance) listenForAPI() (net.Listener, error) {
	if err := i.choosePorts(0); err != nil {
		return nil, err
	}
	return net.Listen("tcp", i.address("api"))
}

// forward copies every connection to a new one of dial.
func forward(listener net.Listener, dial func() (net.Conn, error)) {
	for {
		in, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer in.Close()
			out, err := dial()
			if err != nil {
				return
			}
			defer out.Close()
			go func() {
				io.Copy(out, in)
				closeWrite(out)
			}()
			io.Copy(in, out)
		}()
	}
}

func closeWrite(c net.Conn) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}

// exposeAPI makes the API server reachable for the part of us that is outside of the namespaces.
func (i *instance) exposeAPI() error {
	os.Remove(i.file("api.sock"))
	listener, err := net.Listen("unix", i.file("api.sock"))
	if err != nil {
		return err
	}
	go forward(listener, func() (net.Conn, error) { return net.DialTimeout("tcp", i.address("api"), 2*time.Second) })
	return nil
}

// cmdExec runs a command where a cluster's pods and Services can be reached.
func cmdExec(o options) error {
	if len(o.args) == 0 {
		return fmt.Errorf("needs a command")
	}
	dir := stateOf(o.name)
	env := append(os.Environ(), "KUBECONFIG="+filepath.Join(dir, "admin.kubeconfig"), "PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	if !running(dir) {
		return fmt.Errorf("%s is not running", o.name)
	}
	args := o.args
	if pid := otherNetwork(dir); pid != 0 {
		args = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n", "-m", "-p", "--"}, args...)
		env = append(env, insideVar+"=1")
	}
	os.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, args, env)
}

// otherNetwork finds a process of the instance whose network is not ours.
func otherNetwork(dir string) int {
	ours, _ := os.Readlink("/proc/self/ns/net")
	for _, p := range processesOf(dir) {
		if theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid)); err == nil && theirs != ours {
			return p.pid
		}
	}
	return 0
}
