package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// instance is one cluster: its folder, ports and running components. The lock on its folder is held by its supervisor
// for as long as it lives, so whether an instance runs is never a guess.
type instance struct {
	name, dir   string
	node        bool
	noScheduler bool
	ports       map[string]int
	procs       []*process
	died        chan *process
	locks       []*os.File
	stopping    chan struct{} // closed when the cluster shall end
	stopOnce    sync.Once
}

var portNames = []string{"api", "etcd", "etcd-peer", "controller-manager", "scheduler", "kubelet", "kubelet-healthz", "proxy-healthz", "proxy-metrics", "dns-ready"}

func newInstance(o options) *instance {
	return &instance{name: o.name, dir: stateOf(o.name), node: o.node, noScheduler: o.noScheduler, died: make(chan *process, 32), stopping: make(chan struct{})}
}

func (i *instance) askToStop() { i.stopOnce.Do(func() { close(i.stopping) }) }

// folders makes the instance's folder.
func (i *instance) folders() error {
	if len(i.dir) > 70 {
		return fmt.Errorf("the folder %s is too long for the sockets in it: set TMPDIR to something short", i.dir)
	}
	for _, sub := range []string{"log", "pki", "etcd", "bin"} {
		if err := os.MkdirAll(i.file(sub), 0o700); err != nil {
			return err
		}
	}
	// Pods' users go through the folder to their volumes.
	for _, dir := range []string{stateRoot(), i.dir} {
		if err := os.Chmod(dir, 0o711); err != nil {
			return err
		}
	}
	return nil
}

// claim takes the folder's lock, and with it the right to run this instance.
func (i *instance) claim() error {
	if err := i.folders(); err != nil {
		return err
	}
	lock, err := tryLock(i.file("lock"))
	for tries := 0; err != nil && tries < 5; tries++ { // `running` holds it for a moment
		time.Sleep(20 * time.Millisecond)
		lock, err = tryLock(i.file("lock"))
	}
	if err != nil {
		return fmt.Errorf("a cluster named %s runs already (stop it with: cluster down --name %s)", i.name, i.name)
	}
	i.locks = append(i.locks, lock)
	return nil
}

func tryLock(file string) (*os.File, error) {
	lock, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// running tells whether a supervisor holds the instance.
func running(dir string) bool {
	if _, err := os.Stat(filepath.Join(dir, "lock")); err != nil {
		return false
	}
	lock, err := tryLock(filepath.Join(dir, "lock"))
	if err == nil {
		lock.Close()
	}
	return err != nil
}

// choosePorts takes free ports below the range that the kernel hands to outgoing connections, and reserves each by a lock,
// so that instances that start at once never meet. Kept state keeps its ports where they are still free.
func (i *instance) choosePorts(api int) error {
	if i.loadPorts() != nil {
		i.ports = map[string]int{}
	}
	for _, name := range portNames {
		if name == "api" && api != 0 { // chosen and reserved by our parent
			i.ports[name] = api
			continue
		}
		for tries := 0; ; tries++ {
			port := i.ports[name]
			if port == 0 || tries > 0 {
				port = 20000 + rand.IntN(10000)
			}
			if lock := reservePort(port); lock != nil {
				i.locks, i.ports[name] = append(i.locks, lock), port
				break
			}
			if tries > 200 {
				return fmt.Errorf("no free port between 20000 and 30000")
			}
		}
	}
	data, err := json.Marshal(i.ports)
	if err != nil {
		return err
	}
	return os.WriteFile(i.file("ports.json"), data, 0o600)
}

func (i *instance) loadPorts() error {
	data, err := os.ReadFile(i.file("ports.json"))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, &i.ports)
}

func reservePort(port int) *os.File {
	dir := filepath.Join(stateRoot(), ".ports")
	if os.MkdirAll(dir, 0o700) != nil {
		return nil
	}
	lock, err := tryLock(filepath.Join(dir, fmt.Sprint(port)))
	if err != nil {
		return nil
	}
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		lock.Close()
		return nil
	}
	listener.Close()
	return lock
}

// remove deletes the state of an instance that nobody runs. The kernel may still be taking its mounts away.
func remove(dir string) error {
	var err error
	for range 20 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

func (i *instance) address(port string) string { return fmt.Sprintf("127.0.0.1:%d", i.ports[port]) }
