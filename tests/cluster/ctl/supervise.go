package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// ready is what `run` prints, on one line, when the cluster can be used.
type ready struct {
	Name       string `json:"name"`
	State      string `json:"state"`
	Kubeconfig string `json:"kubeconfig"`
	Server     string `json:"server"`
	AuditLog   string `json:"auditLog"`
	Bin        string `json:"bin"`
	Node       bool   `json:"node"`
}

func (i *instance) ready() ready {
	return ready{
		Name: i.name, State: i.dir, Kubeconfig: i.file("admin.kubeconfig"), Server: "https://" + i.address("api"),
		AuditLog: i.file("log", "audit.log"), Bin: i.file("bin"), Node: i.node,
	}
}

// cmdRun is the supervisor. A cluster with a node gets namespaces of its own, unless we are inside of such already.
func cmdRun(o options) error {
	i := newInstance(o)
	if o.apiPort != 0 {
		return i.runInside(o)
	}
	sweep()
	if err := prepare(o.node); err != nil {
		return err
	}
	if err := i.claim(); err != nil {
		return err
	}
	cleanLeftovers(i.dir)
	if !o.background {
		if err := os.WriteFile(i.file("temporary"), nil, 0o600); err != nil {
			return err
		}
		defer remove(i.dir)
		go i.stopAtEOF()
	}
	i.stopAtSignals()
	if err := i.listenForDown(); err != nil {
		return err
	}
	if o.node && !inNamespaces() {
		return i.runOutside(o)
	}
	return i.supervise(o)
}

// runInside is the supervisor within namespaces that our parent made and cleans.
func (i *instance) runInside(o options) error {
	go i.stopAtEOF()
	i.stopAtSignals()
	if err := i.folders(); err != nil {
		return err
	}
	return i.supervise(o)
}

// prepare builds what is missing, while there is a network.
func prepare(node bool) error {
	groups := []string{"control"}
	if node {
		if os.Getuid() != 0 {
			return fmt.Errorf("a node needs root: containers, network namespaces and cgroups are made for it")
		}
		groups = append(groups, "node")
		if err := needPackages(nodePackages); err != nil {
			return err
		}
	}
	wanted, err := choose(groups)
	if err != nil {
		return err
	}
	if err := build(wanted); err != nil || !node {
		return err
	}
	_, err = buildImage("pause", "")
	return err
}

// prepareImages fetches everything that clusters inside of namespaces will want, because there is no network in there.
func prepareImages() error {
	if err := prepare(true); err != nil {
		return err
	}
	if err := needPackages(imagePackages); err != nil {
		return err
	}
	_, err := opencodeProgram()
	return err
}

// supervise starts the components, tells the caller, and ends them when it is time.
func (i *instance) supervise(o options) error {
	defer i.tearDown()
	began := time.Now()
	if err := i.bringUp(o); err != nil {
		return err
	}
	say("%s is up after %s", i.name, took(began))
	if o.background {
		i.logToFile()
	}
	json.NewEncoder(os.Stdout).Encode(i.ready())
	for {
		select {
		case <-i.stopping:
			return nil
		case p := <-i.died:
			say("%s: %s ended by itself: %v\n%s", i.name, p.name, p.status, tail(p.log, 15))
		}
	}
}

func (i *instance) logToFile() {
	if log, err := os.OpenFile(i.file("log", "supervisor.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
		logTo = log
	}
}

func (i *instance) bringUp(o options) error {
	if err := i.choosePorts(o.apiPort); err != nil {
		return err
	}
	if err := i.linkPrograms(); err != nil {
		return err
	}
	if err := i.makeSecrets(); err != nil {
		return err
	}
	if _, err := i.kubeconfig("admin", "admin"); err != nil {
		return err
	}
	admin, err := i.admin()
	if err != nil {
		return err
	}
	if i.node {
		if err := i.prepareNode(); err != nil {
			return err
		}
	}
	if err := i.startEtcd(); err != nil {
		return err
	}
	if err := i.startAPIServer(); err != nil {
		return err
	}
	if i.node { // needs no API server: use the time
		if err := i.startContainerd(); err != nil {
			return err
		}
	}
	if err := i.waitFor("kube-apiserver", func() error { return admin.get("/readyz") }); err != nil {
		return err
	}
	if err := i.startControllers(); err != nil {
		return err
	}
	if i.node {
		if err := i.startNode(admin); err != nil {
			return err
		}
	}
	return i.waitForControllers()
}

// tearDown ends everything: etcd last, because an API server without its etcd hangs for a minute.
func (i *instance) tearDown() {
	if i.node {
		i.stopNode()
	}
	for _, name := range []string{"kube-scheduler", "kube-controller-manager"} {
		i.stop(name, 5*time.Second)
	}
	if _, err := os.Stat(i.file("temporary")); err == nil {
		for _, p := range i.procs { // nobody will read this state again
			p.cmd.Process.Kill()
			<-p.exited
		}
	}
	i.stop("kube-apiserver", 15*time.Second)
	i.stop("etcd", 10*time.Second)
}

func (i *instance) stopAtEOF() {
	io.Copy(io.Discard, os.Stdin)
	i.askToStop()
}

func (i *instance) stopAtSignals() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	go func() {
		<-signals
		i.askToStop()
	}()
}

// listenForDown takes a connection as the wish to stop. It is answered by our end, which closes it.
func (i *instance) listenForDown() error {
	os.Remove(i.file("down.sock"))
	listener, err := net.Listen("unix", i.file("down.sock"))
	if err != nil {
		return err
	}
	go func() {
		for {
			if _, err := listener.Accept(); err != nil {
				return
			}
			i.askToStop()
		}
	}()
	return nil
}
