package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

//go:embed files
var files embed.FS

// render fills one of the files of files/.
func render(name string, data any) string {
	funcs := template.FuncMap{"base64": func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }}
	t := template.Must(template.New(name).Funcs(funcs).Option("missingkey=error").ParseFS(files, "files/"+name))
	var out strings.Builder
	if err := t.Execute(&out, data); err != nil {
		panic(err) // a fault of ours in an embedded file
	}
	return out.String()
}

// linkPrograms puts what this instance runs into its own bin folder: an instance is one set of versions.
func (i *instance) linkPrograms() error {
	groups := []string{"control"}
	if i.node {
		groups = append(groups, "node")
	}
	wanted, err := choose(groups)
	if err != nil {
		return err
	}
	if err := build(wanted); err != nil {
		return err
	}
	for _, c := range wanted {
		path, err := c.path()
		if err != nil {
			return err
		}
		os.Remove(i.file("bin", c.name))
		if err := os.Symlink(path, i.file("bin", c.name)); err != nil {
			return err
		}
	}
	return nil
}

func (i *instance) startEtcd() error {
	client, peer := "http://"+i.address("etcd"), "http://"+i.address("etcd-peer")
	// State is worth nothing after a crash of the machine: no fsync makes every write an order of magnitude faster.
	err := i.start("etcd", i.file("bin", "etcd"), "--data-dir", i.file("etcd"), "--unsafe-no-fsync", "--log-level", "warn",
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	if err != nil {
		return err
	}
	return i.waitFor("etcd", func() error { return getOK(http.DefaultClient, client+"/health") })
}

func (i *instance) startAPIServer() error {
	if err := os.WriteFile(i.file("audit.yaml"), []byte(render("audit.yaml", nil)), 0o600); err != nil {
		return err
	}
	pki := func(file string) string { return i.file("pki", file) }
	args := []string{
		"--etcd-servers=http://" + i.address("etcd"), "--secure-port=" + fmt.Sprint(i.ports["api"]),
		"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"), "--cert-dir=" + i.file("pki"),
		"--kubelet-client-certificate=" + pki("kubelet-client.crt"), "--kubelet-client-key=" + pki("kubelet-client.key"),
		"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
		"--token-auth-file=" + pki("tokens.csv"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--service-cluster-ip-range=" + serviceNet, "--allow-privileged=true",
		// Blocking: an answer is in the log before its caller has it, so that a test may count right away.
		"--audit-policy-file=" + i.file("audit.yaml"), "--audit-log-path=" + i.file("log", "audit.log"), "--audit-log-mode=blocking", "--audit-log-maxsize=4096",
	}
	if i.node {
		args = append(args, "--bind-address=0.0.0.0", "--advertise-address="+bridgeIP)
	} else {
		args = append(args, "--bind-address=127.0.0.1", "--endpoint-reconciler-type=none",
			// Named, because in network namespaces without a default route it finds none by itself.
			"--advertise-address=127.0.0.1")
	}
	return i.start("kube-apiserver", i.file("bin", "kube-apiserver"), args...)
}

func (i *instance) startControllers() error {
	kcm, err := i.kubeconfig("controller-manager", "system:kube-controller-manager")
	if err != nil {
		return err
	}
	pki := func(file string) string { return i.file("pki", file) }
	// The default of 20 requests a second is for big clusters with many clients: 200 pods would take 15 s.
	common := []string{"--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000", "--bind-address=127.0.0.1", "--cert-dir=" + i.file("pki")}
	err = i.start("kube-controller-manager", i.file("bin", "kube-controller-manager"), append(common,
		"--kubeconfig="+kcm, "--secure-port="+fmt.Sprint(i.ports["controller-manager"]), "--cluster-name="+i.name,
		"--service-account-private-key-file="+pki("sa.key"), "--root-ca-file="+pki("ca.crt"),
		"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"), "--use-service-account-credentials=true")...)
	if err != nil || i.noScheduler {
		return err
	}
	scheduler, err := i.kubeconfig("scheduler", "system:kube-scheduler")
	if err != nil {
		return err
	}
	return i.start("kube-scheduler", i.file("bin", "kube-scheduler"), append(common,
		"--kubeconfig="+scheduler, "--secure-port="+fmt.Sprint(i.ports["scheduler"]))...)
}

// api is the administrator's HTTP client; the few requests of our own need no more.
type api struct {
	client *http.Client
	base   string
	token  string
}

func (i *instance) admin() (*api, error) {
	ca, err := os.ReadFile(i.file("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	return &api{&http.Client{Transport: transport, Timeout: 5 * time.Second}, "https://" + i.address("api"), i.token("admin")}, nil
}

func (a *api) do(method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequest(method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", contentType)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer)
	}
	return answer, err
}

func (a *api) get(path string) error {
	_, err := a.do("GET", path, "application/json", nil)
	return err
}

// nodeReady is an error until the node can take pods.
func (a *api) nodeReady(name string) error {
	answer, err := a.do("GET", "/api/v1/nodes/"+name, "application/json", nil)
	if err != nil {
		return err
	}
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := json.Unmarshal(answer, &node); err != nil {
		return err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		}
	}
	return fmt.Errorf("node %s is not Ready: %v", name, node.Status.Conditions)
}

// applyNode applies a node and, because a plain apply leaves it out, its status.
func (a *api) applyNode(name, yaml string) error {
	if err := a.apply("/api/v1/nodes/"+name, yaml); err != nil {
		return err
	}
	return a.apply("/api/v1/nodes/"+name+"/status", yaml)
}

// apply is a server-side apply of one object.
func (a *api) apply(path, yaml string) error {
	_, err := a.do("PATCH", path+"?fieldManager=cluster&force=true", "application/apply-patch+yaml", []byte(yaml))
	return err
}

var insecure = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

func getOK(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", filepath.Base(url), resp.Status)
	}
	return nil
}

func (i *instance) waitForControllers() error {
	admin, err := i.admin()
	if err != nil {
		return err
	}
	if !i.noScheduler {
		if err := i.waitFor("kube-scheduler", func() error { return getOK(insecure, "https://"+i.address("scheduler")+"/healthz") }); err != nil {
			return err
		}
	}
	// Pods need it, and it shows that the controllers work.
	return i.waitFor("kube-controller-manager", func() error { return admin.get("/api/v1/namespaces/default/serviceaccounts/default") })
}
