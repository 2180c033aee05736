package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func cmdBuild(o options) error {
	wanted, err := choose(o.args)
	if err != nil {
		return err
	}
	return build(wanted)
}

func cmdPath(o options) error {
	if len(o.args) != 1 {
		return fmt.Errorf("needs one program's name")
	}
	path, err := pathOf(o.args[0])
	if err == nil {
		fmt.Println(path)
	}
	return err
}

// pathOf is the path of a program that is built here, or of the agent's.
func pathOf(name string) (string, error) {
	if name == "opencode" {
		return opencodeProgram()
	}
	return program(name)
}

func cmdClean(options) error { return os.RemoveAll(cacheDir()) }

// choose turns names of groups and programs into components; nothing means the control plane.
func choose(names []string) ([]component, error) {
	if len(names) == 0 {
		names = []string{"control"}
	}
	var chosen []component
	for _, name := range names {
		before := len(chosen)
		for _, c := range components {
			if name == "all" || name == c.group || name == c.name {
				chosen = append(chosen, c)
			}
		}
		if len(chosen) == before {
			return nil, fmt.Errorf("nothing is called %q; there are control, node, tools, all and the programs' names", name)
		}
	}
	return chosen, nil
}

// program builds one program if needed and returns its path.
func program(name string) (string, error) {
	chosen, err := choose([]string{name})
	if err != nil {
		return "", err
	}
	if err := build(chosen[:1]); err != nil {
		return "", err
	}
	return chosen[0].path()
}

// path is where the program of exactly these sources and flags lies, built or not.
func (c component) path() (string, error) {
	dir := filepath.Join(sourceDir(), "modules", c.module)
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return "", err
	}
	sum, err := os.ReadFile(filepath.Join(dir, "go.sum"))
	if err != nil {
		return "", err
	}
	goVersion, err := toolchain()
	if err != nil {
		return "", err
	}
	what := fmt.Sprint(c.pkg, c.flags(), c.env(), c.linkFlags(string(mod)))
	return filepath.Join(cacheDir(), "bin", c.name+"-"+contentKey(mod, sum, []byte(goVersion), []byte(what)), c.name), nil
}

var goVersion string

func toolchain() (string, error) {
	if goVersion != "" {
		return goVersion, nil
	}
	out, err := exec.Command("go", "version").Output()
	if err != nil {
		return "", fmt.Errorf("go is needed to build Kubernetes: %w", err)
	}
	goVersion = strings.TrimSpace(string(out))
	return goVersion, nil
}

// missing keeps the components whose program is not in the cache.
func missing(wanted []component) ([]component, error) {
	var out []component
	for _, c := range wanted {
		path, err := c.path()
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(path); err != nil && !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

// build makes what is missing, one build at a time on this machine.
func build(wanted []component) error {
	todo, err := missing(wanted)
	if err != nil || len(todo) == 0 {
		return err
	}
	if err := needPackages(buildPackages(todo)); err != nil {
		return err
	}
	unlock, err := lockCache()
	if err != nil {
		return err
	}
	defer unlock()
	if todo, err = missing(todo); err != nil { // another run may have built them while we waited
		return err
	}
	total, began := len(todo), time.Now()
	say("%s to build, each once: about %s on two cores", plural(total, "program"), roughly(cost(todo)))
	for len(todo) > 0 {
		batch := []component{todo[0]}
		rest := []component{}
		for _, c := range todo[1:] {
			if c.sharesBuild(todo[0]) {
				batch = append(batch, c)
			} else {
				rest = append(rest, c)
			}
		}
		if err := buildBatch(batch, fmt.Sprintf("%d of %d", total-len(todo)+1, total)); err != nil {
			return err
		}
		todo = rest
	}
	say("%s built in %s", plural(total, "program"), took(began))
	return nil
}

func lockCache() (func(), error) {
	if err := os.MkdirAll(filepath.Join(cacheDir(), "bin"), 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(cacheDir(), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		say("waiting for another build to end")
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
			return nil, err
		}
	}
	return func() { lock.Close() }, nil
}

// buildBatch runs one `go build` for components of one module, and publishes each program by a rename.
func buildBatch(batch []component, position string) error {
	var names, pkgs []string
	for _, c := range batch {
		names, pkgs = append(names, c.name), append(pkgs, c.pkg)
	}
	dir := filepath.Join(sourceDir(), "modules", batch[0].module)
	goMod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(cacheDir(), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	bar := newProgress(fmt.Sprintf("%s: %s", position, strings.Join(names, ", ")), cost(batch))
	defer bar.end()
	goCommand := func(args ...string) *exec.Cmd {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), batch[0].env()...)
		return cmd
	}
	// Loading the packages downloads the modules that have them, and no others.
	list := append([]string{"list", "-deps", "-f", "{{.Stale}}"}, batch[0].flags()...)
	err = runWatched(goCommand(append(list, pkgs...)...), func(line string) {
		if line == "true" {
			bar.expect()
		}
	})
	if err != nil {
		return fmt.Errorf("download of %s: %w", batch[0].module, err)
	}
	args := append([]string{"build", "-v", "-ldflags", batch[0].linkFlags(string(goMod)), "-o", tmp + "/"}, batch[0].flags()...)
	if err := runWatched(goCommand(append(args, pkgs...)...), func(string) { bar.step() }); err != nil {
		return fmt.Errorf("build of %s: %w", strings.Join(names, ", "), err)
	}
	if err := publish(batch, tmp); err != nil {
		return err
	}
	bar.end()
	say("built %s in %s", strings.Join(names, ", "), took(bar.began))
	return nil
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func publish(batch []component, from string) error {
	for _, c := range batch {
		path, err := c.path()
		if err != nil {
			return err
		}
		built := filepath.Join(from, c.name)
		if c.name == "etcd" || c.name == "kustomize" { // go names a program of …/server/v3 `server`
			built = filepath.Join(from, filepath.Base(filepath.Dir(c.pkg)))
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if c.name == "kwok" { // before the program: who finds it finds them too
			if _, err := stagesBeside(path); err != nil {
				return err
			}
		}
		if err := os.Rename(built, path); err != nil {
			return err
		}
	}
	return nil
}

// runWatched calls line for each line that the command prints, and puts the last ones into its error.
func runWatched(cmd *exec.Cmd, line func(string)) error {
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	done := make(chan []string)
	go func() {
		var last []string
		scanner := bufio.NewScanner(read)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			line(scanner.Text())
			if last = append(last, scanner.Text()); len(last) > 15 {
				last = last[1:]
			}
		}
		done <- last
	}()
	err := cmd.Run()
	write.Close()
	last := <-done
	if err != nil {
		return fmt.Errorf("%w\n%s", err, strings.Join(last, "\n"))
	}
	return nil
}
