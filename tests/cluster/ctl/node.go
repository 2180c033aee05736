package main

import (
	"fmt"
	"os"
	"os/exec"
	"time"
)

// prepareNode makes the bridge, cgroups and files of the node.
func (i *instance) prepareNode() error {
	for _, dir := range []string{"cni", "cni-data", "kubelet", "pod-logs", "plugins", "containerd"} {
		if err := os.MkdirAll(i.file(dir), 0o711); err != nil {
			return err
		}
	}
	if err := bridgeUp(); err != nil {
		return err
	}
	if err := makeCgroups(i.name); err != nil {
		return err
	}
	if err := i.exposeAPI(); err != nil {
		return err
	}
	values := map[string]any{
		"Dir": i.dir, "Name": i.name, "Ports": i.ports, "Bridge": bridge, "BridgeIP": bridgeIP, "PodNet": podNet, "PodFirst": podFirst,
		"Node": nodeName, "Cgroup": cgroupName(i.name),
	}
	for from, to := range map[string]string{
		"containerd.toml": "containerd.toml", "bridge.conflist": "cni/10-bridge.conflist", "kubelet.yaml": "kubelet.yaml",
		"kube-proxy.yaml": "kube-proxy.yaml", "Corefile": "Corefile", "root.zone": "root.zone", "resolv.conf": "resolv.conf",
	} {
		if err := os.WriteFile(i.file(to), []byte(render(from, values)), 0o644); err != nil {
			return err
		}
	}
	hosts, err := os.OpenFile(i.file("hosts"), os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return hosts.Close()
}

func bridgeUp() error {
	script := "ip link show " + bridge + " >/dev/null 2>&1 || ip link add " + bridge + " type bridge; " +
		"ip addr replace " + bridgeIP + "/16 dev " + bridge + " && ip link set " + bridge + " up && " +
		// Without a default route the node itself would not even try a Service's address.
		"ip route replace " + serviceNet + " dev " + bridge + " && echo 1 > /proc/sys/net/ipv4/ip_forward"
	if err := runWatched(exec.Command("sh", "-c", script), func(string) {}); err != nil {
		return err
	}
	// The answers of a pod to a pod behind a Service stay on the bridge; only so does connection tracking see them.
	if err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o644); err != nil {
		say("the kernel has no br_netfilter: Services will not work between pods of this node")
	}
	return nil
}

func (i *instance) startContainerd() error {
	if err := i.start("containerd", i.file("bin", "containerd"), "-c", i.file("containerd.toml")); err != nil {
		return err
	}
	if err := i.waitFor("containerd", func() error { return i.ctr("version").Run() }); err != nil {
		return err
	}
	pause, err := buildImage("pause", "")
	if err != nil {
		return err
	}
	return runWatched(i.ctr("images", "import", pause), func(string) {})
}

func (i *instance) ctr(args ...string) *exec.Cmd {
	return exec.Command(i.file("bin", "ctr"), append([]string{"-a", i.file("containerd.sock"), "-n", "k8s.io"}, args...)...)
}

// startNode starts what needs the API server, and waits until pods can run and resolve names.
func (i *instance) startNode(admin *api) error {
	for path, file := range map[string]string{
		"/apis/rbac.authorization.k8s.io/v1/clusterroles/system:coredns":        "coredns-role.yaml",
		"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:coredns": "coredns-binding.yaml",
		// A default StorageClass and its provisioner would come here.
	} {
		if err := admin.apply(path, render(file, nil)); err != nil {
			return err
		}
	}
	kubelet, err := i.kubeconfig("kubelet", "system:node:"+nodeName)
	if err != nil {
		return err
	}
	if _, err := i.kubeconfig("kube-proxy", "system:kube-proxy"); err != nil {
		return err
	}
	if _, err := i.kubeconfig("coredns", "system:coredns"); err != nil {
		return err
	}
	if err := i.start("kubelet", i.file("bin", "kubelet"), "--config", i.file("kubelet.yaml"), "--kubeconfig", kubelet,
		"--root-dir", i.file("kubelet"), "--cert-dir", i.file("pki"), "--hostname-override", nodeName, "--node-ip", bridgeIP); err != nil {
		return err
	}
	if err := i.start("kube-proxy", i.file("bin", "kube-proxy"), "--config", i.file("kube-proxy.yaml")); err != nil {
		return err
	}
	if err := i.start("coredns", i.file("bin", "coredns"), "-conf", i.file("Corefile")); err != nil {
		return err
	}
	return i.waitForNode(admin)
}

func (i *instance) waitForNode(admin *api) error {
	if err := i.waitFor("kubelet", func() error { return admin.nodeReady(nodeName) }); err != nil {
		return err
	}
	if err := i.waitFor("kube-proxy", func() error { return getOK(insecure, "http://"+i.address("proxy-healthz")+"/healthz") }); err != nil {
		return err
	}
	return i.waitFor("coredns", func() error { return getOK(insecure, "http://"+i.address("dns-ready")+"/ready") })
}

// stopNode ends the pods and then what ran them. In namespaces of our own the kernel does the rest.
func (i *instance) stopNode() {
	for _, name := range []string{"kubelet", "coredns", "kube-proxy"} {
		i.stop(name, 5*time.Second)
	}
	removeCgroups(i.name)
	i.stop("containerd", 10*time.Second)
	killShims(i.dir)
	unmountAll(i.dir)
}

func cmdLoadImage(o options) error {
	i := newInstance(o)
	for _, tar := range o.args {
		if err := runWatched(i.ctr("images", "import", tar), func(string) {}); err != nil {
			return err
		}
	}
	return nil
}

func cmdTagImage(o options) error {
	if len(o.args) != 2 {
		return fmt.Errorf("needs two image references: the one that is there, and the new one")
	}
	return runWatched(newInstance(o).ctr("images", "tag", "--force", o.args[0], o.args[1]), func(string) {})
}
