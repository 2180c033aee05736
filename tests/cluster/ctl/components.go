package main

import "strings"

// component is a program that we build from a pinned Go module (tests/cluster/modules/MODULE).
type component struct {
	name   string
	module string
	pkg    string
	cgo    bool
	tags   string
	group  string // control, node or tools
	cost   string // of the first build on two cores, for the progress line
}

const (
	kubernetesCmd = "k8s.io/kubernetes/cmd/"
	containerdCmd = "github.com/containerd/containerd/v2/cmd/"
	cniPlugins    = "github.com/containernetworking/plugins/plugins/"
)

var components = []component{
	{name: "etcd", module: "etcd", pkg: "go.etcd.io/etcd/server/v3", cgo: true, group: "control", cost: "1 min"},
	{name: "kube-apiserver", module: "kubernetes", pkg: kubernetesCmd + "kube-apiserver", cgo: true, group: "control", cost: "8 min"},
	{name: "kube-controller-manager", module: "kubernetes", pkg: kubernetesCmd + "kube-controller-manager", cgo: true, group: "control", cost: "1 min"},
	{name: "kube-scheduler", module: "kubernetes", pkg: kubernetesCmd + "kube-scheduler", cgo: true, group: "control", cost: "20 s"},
	{name: "kubectl", module: "kubernetes", pkg: kubernetesCmd + "kubectl", cgo: true, group: "control", cost: "1 min"},
	{name: "kubelet", module: "kubernetes", pkg: kubernetesCmd + "kubelet", cgo: true, group: "node", cost: "30 s"},
	{name: "kube-proxy", module: "kubernetes", pkg: kubernetesCmd + "kube-proxy", cgo: true, group: "node", cost: "30 s"},
	{name: "containerd", module: "containers", pkg: containerdCmd + "containerd", group: "node", cost: "2 min"},
	{name: "containerd-shim-runc-v2", module: "containers", pkg: containerdCmd + "containerd-shim-runc-v2", group: "node", cost: "10 s"},
	{name: "ctr", module: "containers", pkg: containerdCmd + "ctr", group: "node", cost: "20 s"},
	{name: "host-local", module: "containers", pkg: cniPlugins + "ipam/host-local", group: "node", cost: "5 s"},
	{name: "bridge", module: "containers", pkg: cniPlugins + "main/bridge", group: "node", cost: "5 s"},
	{name: "loopback", module: "containers", pkg: cniPlugins + "main/loopback", group: "node", cost: "5 s"},
	{name: "portmap", module: "containers", pkg: cniPlugins + "meta/portmap", group: "node", cost: "5 s"},
	// Debian's runc 1.1 is too old for this containerd; seccomp needs cgo and libseccomp.
	{name: "runc", module: "containers", pkg: "github.com/opencontainers/runc", cgo: true, tags: "seccomp", group: "node", cost: "20 s"},
	{name: "coredns", module: "coredns", pkg: "github.com/coredns/coredns", group: "node", cost: "4 min"},
	{name: "kwok", module: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok", group: "tools", cost: "3 min"},
	{name: "helm", module: "helm", pkg: "helm.sh/helm/v4/cmd/helm", group: "tools", cost: "4 min"},
	{name: "kubeconform", module: "kubeconform", pkg: "github.com/yannh/kubeconform/cmd/kubeconform", group: "tools", cost: "10 s"},
	// Pushes images, and is a registry for tests.
	{name: "crane", module: "registry", pkg: "github.com/google/go-containerregistry/cmd/crane", group: "tools", cost: "20 s"},
	{name: "kustomize", module: "kustomize", pkg: "sigs.k8s.io/kustomize/kustomize/v5", group: "tools", cost: "20 s"},
}

func (c component) flags() []string {
	flags := []string{"-trimpath", "-buildvcs=false"}
	if c.tags != "" {
		flags = append(flags, "-tags", c.tags)
	}
	return flags
}

func (c component) env() []string {
	if c.cgo {
		return []string{"CGO_ENABLED=1", "GOFLAGS=-mod=readonly", "GOWORK=off"}
	}
	return []string{"CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOWORK=off"}
}

// sharesBuild says whether one `go build` can make both.
func (c component) sharesBuild(d component) bool {
	return c.module == d.module && c.cgo == d.cgo && c.tags == d.tags
}

// linkFlags strip the programs and give Kubernetes its version: a plain build calls itself v0.0.0-master, which a chart's
// kubeVersion refuses.
func (c component) linkFlags(goMod string) string {
	flags := "-s -w"
	_, rest, found := strings.Cut(goMod, "\tk8s.io/kubernetes v")
	if c.module != "kubernetes" || !found {
		return flags
	}
	version, _, _ := strings.Cut(rest, "\n")
	version, _, _ = strings.Cut(version, " ")
	minor := strings.Split(version, ".")[1]
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, kv := range []string{"gitVersion=v" + version, "gitMajor=1", "gitMinor=" + minor, "gitTreeState=clean", "gitCommit=module"} {
			flags += " -X " + pkg + "." + kv
		}
	}
	return flags
}
