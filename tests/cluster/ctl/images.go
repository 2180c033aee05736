package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	agentUser      = 1000  // runs opencode and its tools
	controllerUser = 65532 // runs pilothouse itself
	searchPath     = "PATH=/usr/local/bin:/usr/bin:/bin"
)

// recipes make images; an argument comes from WHAT=ARGUMENT.
var recipes = map[string]func(argument string) (image, error){
	"pause":      pauseImage,
	"executor":   executorImage,
	"opencode":   opencodeImage,
	"pilothouse": pilothouseImage,
}

func cmdImage(o options) error {
	if len(o.args) == 0 {
		return fmt.Errorf("say which: pause, executor, opencode or pilothouse=BINARY")
	}
	for _, arg := range o.args {
		what, argument, _ := strings.Cut(arg, "=")
		path, err := buildImage(what, argument)
		if err != nil {
			return err
		}
		fmt.Println(path)
	}
	return nil
}

// buildImage returns the path of an image's archive, made now where its content is new.
func buildImage(what, argument string) (string, error) {
	recipe, there := recipes[what]
	if !there {
		return "", fmt.Errorf("there is no image %q", what)
	}
	m, err := recipe(argument)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", what, err)
	}
	path := filepath.Join(cacheDir(), "images", what+"-"+m.key()+".tar")
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(path, now, now)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	began := time.Now()
	removeOldImages(filepath.Dir(path), what)
	if err := m.write(path); err != nil {
		return "", err
	}
	say("image %s made in %s", m.reference, took(began))
	return path, nil
}

// removeOldImages keeps what was used within the hour: images of our own program are big and change with each build of it.
func removeOldImages(dir, what string) {
	archives, _ := filepath.Glob(filepath.Join(dir, what+"-*.tar"))
	for _, path := range archives {
		if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) > time.Hour {
			os.Remove(path)
		}
	}
}

func pauseImage(string) (image, error) {
	source := filepath.Join(sourceDir(), "ctl")
	code, err := os.ReadFile(filepath.Join(source, "pause", "main.go"))
	if err != nil {
		return image{}, err
	}
	version, err := toolchain()
	if err != nil {
		return image{}, err
	}
	program := filepath.Join(cacheDir(), "bin", "pause-"+contentKey(code, []byte(version)), "pause")
	if _, err := os.Stat(program); err != nil {
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "./pause")
		cmd.Dir, cmd.Env = source, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
		if err := runWatched(cmd, func(string) {}); err != nil {
			return image{}, err
		}
	}
	r := newRootfs()
	err = r.copy("/pause", program)
	return image{reference: "localhost/pause:1", layers: []*rootfs{r}, entrypoint: []string{"/pause"}}, err
}

// skeleton is the base of the other images: a merged /usr, users, a shell with its small programs.
func skeleton() (*rootfs, error) {
	if err := needPackages(imagePackages); err != nil {
		return nil, err
	}
	r := newRootfs()
	for _, top := range []string{"bin", "sbin", "lib", "lib64"} {
		r.dir("/usr/"+top, 0o755, 0)
		r.link("/"+top, "usr/"+top)
	}
	r.dir("/tmp", 0o1777, 0)
	r.dir("/home/agent", 0o755, agentUser)
	r.dir("/home/pilothouse", 0o755, controllerUser)
	r.dir("/workspace", 0o755, agentUser)
	r.text("/etc/passwd", fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nagent:x:%d:%d::/home/agent:/bin/bash\npilothouse:x:%d:%d::/home/pilothouse:/bin/sh\n",
		agentUser, agentUser, controllerUser, controllerUser), 0o644)
	r.text("/etc/group", fmt.Sprintf("root:x:0:\nagent:x:%d:\npilothouse:x:%d:\n", agentUser, controllerUser), 0o644)
	r.text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)
	if err := r.copy("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/certs/ca-certificates.crt"); err != nil {
		return nil, err
	}
	return r, r.busybox()
}

func (r *rootfs) busybox() error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	applets, err := exec.Command(path, "--list").Output()
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(applets)) {
		r.link("/usr/bin/"+applet, "busybox")
	}
	return r.program("/usr/bin/busybox", path)
}

// tools is what agents and the controller call: git over https and ssh, and the search that opencode wants.
func tools() (*rootfs, error) {
	r := newRootfs()
	for _, name := range []string{"bash", "git", "ssh", "rg"} {
		if err := r.installed(name); err != nil {
			return nil, err
		}
	}
	core, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, err
	}
	if err := r.tree(strings.TrimSpace(string(core))); err != nil {
		return nil, err
	}
	r.dir("/usr/share/git-core/templates", 0o755, 0) // without it git warns
	// What programs load by name while they run: opencode's own, and the resolver's.
	libc, err := exec.Command("gcc", "-print-file-name=libc.so.6").Output()
	dir := filepath.Dir(strings.TrimSpace(string(libc)))
	if err != nil || !filepath.IsAbs(dir) {
		dir = "/lib/x86_64-linux-gnu"
	}
	for _, name := range []string{"libpthread.so.0", "libdl.so.2", "libm.so.6", "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2", "libgcc_s.so.1", "librt.so.1"} {
		if err := r.program(filepath.Join("/usr/lib/x86_64-linux-gnu", name), filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// baseLayers are shared by executor and pilothouse: containerd unpacks them once.
func baseLayers() ([]*rootfs, error) {
	base, err := skeleton()
	if err != nil {
		return nil, err
	}
	t, err := tools()
	return []*rootfs{base, t}, err
}

func executorImage(string) (image, error) {
	layers, err := baseLayers()
	return image{
		reference: "localhost/executor:dev", layers: layers, user: fmt.Sprint(agentUser), workingDir: "/workspace",
		entrypoint: []string{"/usr/bin/bash"}, env: []string{searchPath, "HOME=/home/agent"},
	}, err
}

func pilothouseImage(binary string) (image, error) {
	if binary == "" {
		binary = filepath.Join(sourceDir(), "..", "..", "target", "debug", "pilothouse")
	}
	layers, err := baseLayers()
	if err != nil {
		return image{}, err
	}
	r := newRootfs()
	err = r.program("/usr/local/bin/pilothouse", binary)
	return image{
		reference: "localhost/pilothouse:dev", layers: append(layers, r), user: fmt.Sprint(controllerUser), workingDir: "/",
		entrypoint: []string{"/usr/local/bin/pilothouse"}, env: []string{searchPath, "HOME=/home/pilothouse"},
	}, err
}
