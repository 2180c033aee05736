package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// users have a fixed token each: name, groups. Everybody else comes with a ServiceAccount's token.
var users = map[string]string{
	"admin":                          "system:masters",
	"system:kwok":                    "system:masters",
	"system:kube-controller-manager": "",
	"system:kube-scheduler":          "",
	"system:kube-proxy":              "",
	"system:coredns":                 "",
	"system:node:" + nodeName:        "system:nodes",
}

// makeSecrets writes the certificate authority, certificates, the key of ServiceAccount tokens and the users' tokens, once.
func (i *instance) makeSecrets() error {
	if _, err := os.Stat(i.file("pki", "tokens.csv")); err == nil {
		return nil
	}
	ca, caKey, err := i.authority()
	if err != nil {
		return err
	}
	service := "kubernetes.default.svc.cluster.local"
	names := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", service}
	apiNames := append(names, "127.0.0.1", bridgeIP, serviceAPI)
	masters := pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}}
	node := pkix.Name{CommonName: "system:node:" + nodeName, Organization: []string{"system:nodes"}}
	for _, c := range []struct {
		file    string
		subject pkix.Name
		names   []string
	}{
		{"apiserver", pkix.Name{CommonName: "kube-apiserver"}, apiNames},
		{"kubelet", node, []string{nodeName, bridgeIP, "127.0.0.1"}},
		{"kubelet-client", masters, nil},
	} {
		if err := i.certificate(c.file, c.subject, c.names, ca, caKey); err != nil {
			return err
		}
	}
	if err := i.tokenKey(); err != nil {
		return err
	}
	return i.tokens()
}

func (i *instance) authority() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: i.name + "-ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	return ca, key, i.sign("ca", ca, ca, key, key)
}

func (i *instance) certificate(file string, subject pkix.Name, names []string, ca *x509.Certificate, caKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return err
	}
	c := &x509.Certificate{
		SerialNumber: serial, Subject: subject, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, name)
		}
	}
	return i.sign(file, c, ca, key, caKey)
}

func (i *instance) sign(file string, c, ca *x509.Certificate, key, caKey *ecdsa.PrivateKey) error {
	der, err := x509.CreateCertificate(rand.Reader, c, ca, &key.PublicKey, caKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	if err := i.writePEM(file+".crt", "CERTIFICATE", der); err != nil {
		return err
	}
	return i.writePEM(file+".key", "EC PRIVATE KEY", keyDER)
}

func (i *instance) tokenKey() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := i.writePEM("sa.pub", "PUBLIC KEY", public); err != nil {
		return err
	}
	return i.writePEM("sa.key", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func (i *instance) writePEM(file, kind string, der []byte) error {
	return os.WriteFile(i.file("pki", file), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

func (i *instance) tokens() error {
	var csv strings.Builder
	for user, group := range users {
		var token [24]byte
		rand.Read(token[:])
		fmt.Fprintf(&csv, "%s,%s,%s,%q\n", hex.EncodeToString(token[:]), user, user, group)
	}
	return os.WriteFile(i.file("pki", "tokens.csv"), []byte(csv.String()), 0o600)
}

func (i *instance) token(user string) string {
	data, _ := os.ReadFile(i.file("pki", "tokens.csv"))
	for _, line := range strings.Split(string(data), "\n") {
		if f := strings.Split(line, ","); len(f) > 2 && f[1] == user {
			return f[0]
		}
	}
	return ""
}

// kubeconfig writes FILE.kubeconfig for a user. The certificate authority is inline, so the file can be copied.
func (i *instance) kubeconfig(file, user string) (string, error) {
	ca, err := os.ReadFile(i.file("pki", "ca.crt"))
	if err != nil {
		return "", err
	}
	text := render("kubeconfig.yaml", map[string]any{
		"Name": i.name, "Server": "https://" + i.address("api"), "CA": ca, "User": user, "Token": i.token(user),
	})
	path := i.file(file + ".kubeconfig")
	return path, os.WriteFile(path, []byte(text), 0o600)
}
