package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// debian is a package and what shows that it is there: a program's name, or a file.
type debian struct{ name, proof string }

// buildPackages are what compiling the components needs.
func buildPackages(wanted []component) []debian {
	var need []debian
	for _, c := range wanted {
		if c.cgo {
			need = append(need, debian{"gcc", "gcc"}, debian{"libc6-dev", "/usr/include/stdio.h"})
		}
		if c.tags == "seccomp" {
			need = append(need, debian{"pkg-config", "pkg-config"}, debian{"libseccomp-dev", "/usr/include/seccomp.h"})
		}
	}
	return need
}

// nodePackages are what the kubelet, kube-proxy and our own set-up call.
var nodePackages = []debian{
	{"nftables", "nft"}, {"iptables", "iptables"}, {"conntrack", "conntrack"}, {"iproute2", "ip"}, {"mount", "mount"},
}

// imagePackages are what goes into the images.
var imagePackages = []debian{
	{"busybox-static", "busybox"}, {"git", "git"}, {"openssh-client", "ssh"}, {"ripgrep", "rg"}, {"bash", "bash"},
	{"ca-certificates", "/etc/ssl/certs/ca-certificates.crt"},
}

func (d debian) installed() bool {
	if strings.HasPrefix(d.proof, "/") {
		_, err := os.Stat(d.proof)
		return err == nil
	}
	_, err := exec.LookPath(d.proof)
	return err == nil
}

// needPackages installs what is missing where we may, and else says what to install.
func needPackages(need []debian) error {
	var names []string
	for _, d := range need {
		if !d.installed() && !strings.Contains(" "+strings.Join(names, " ")+" ", " "+d.name+" ") {
			names = append(names, d.name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	command := "apt-get install -y --no-install-recommends " + strings.Join(names, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Getuid() != 0 {
		return fmt.Errorf("packages are missing; as root: %s", command)
	}
	say("%s", command)
	install := exec.Command("sh", "-c", command+" || { apt-get update && "+command+"; }")
	install.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return runWatched(install, func(string) {})
}
