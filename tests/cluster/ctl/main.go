// Command ctl builds, starts and stops real Kubernetes clusters for tests; `tests/cluster/cluster` compiles and runs it.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sort"
	"strings"
)

const usage = `cluster: real Kubernetes clusters from Go modules, for tests and the demo

  cluster build [WHAT...]        build what is missing: control (default), node, tools, all, or a program's name
  cluster path PROGRAM           build if needed, print the program's path
  cluster up [--node]            start a cluster in the background, print its kubeconfig's path
  cluster run [--node]           the same in the foreground; ends and removes all when standard input is closed
  cluster down                   stop it, keep its state
  cluster reset                  stop it, remove its state; with --all every one of this user
  cluster status                 processes and memory
  cluster kubeconfig             print the path of the administrator's kubeconfig
  cluster exec CMD...            run CMD in the network and mount namespaces of a cluster with a node
  cluster image WHAT...          make an image archive (pause, executor, opencode, pilothouse BINARY), print its path
  cluster load-image TAR...      import image archives into the node's containerd
  cluster tag-image FROM TO      give an image of the node another reference
  cluster fake-nodes [COUNT]        run KWOK for nodes annotated pilothouse.dev/fake=true until standard input is closed
  cluster in-netns CMD...        run CMD in new network, mount and process namespaces (root)
  cluster clean                  remove every built program and image of the cache

Options, before the arguments: --name NAME (default: dev), --node, --no-scheduler.
See tests/cluster/README.md.
`

// Kubernetes components must die with their supervisor. The kernel ties that to the thread that started them: this one.
func init() { runtime.LockOSThread() }

type options struct {
	name        string
	node        bool
	noScheduler bool
	all         bool
	background  bool // run: started by up; keeps its state, does not end with standard input
	apiPort     int  // run: we are inside of the namespaces that our parent made; the port it listens on for us
	args        []string
}

var commands = map[string]func(options) error{
	"build":      cmdBuild,
	"path":       cmdPath,
	"up":         cmdUp,
	"run":        cmdRun,
	"down":       cmdDown,
	"reset":      cmdReset,
	"status":     cmdStatus,
	"kubeconfig": cmdKubeconfig,
	"exec":       cmdExec,
	"image":      cmdImage,
	"load-image": cmdLoadImage,
	"tag-image":  cmdTagImage,
	"fake-nodes": cmdFakeNodes,
	"in-netns":   cmdInNetns,
	"init":       cmdInit,
	"clean":      cmdClean,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprint(os.Stderr, usage)
		if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
			fmt.Fprintf(os.Stderr, "\nunknown command %q; there are %s\n", os.Args[1], strings.Join(commandNames(), ", "))
		}
		os.Exit(2)
	}
	opts, err := parse(os.Args[2:])
	if err == nil {
		err = commands[os.Args[1]](opts)
	}
	var exit exitStatus
	if errors.As(err, &exit) {
		os.Exit(int(exit))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cluster %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// exitStatus is another program's exit status, handed on without a message of our own.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

func commandNames() []string {
	var names []string
	for name := range commands {
		if name != "init" {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

// parse reads our options up to the first argument that is none; the rest belongs to the command.
func parse(args []string) (options, error) {
	o := options{name: envOr("PILOTHOUSE_CLUSTER", "dev")}
	for len(args) > 0 && strings.HasPrefix(args[0], "--") {
		arg := args[0]
		args = args[1:]
		switch arg {
		case "--":
			o.args = args
			return o, checkName(o.name)
		case "--node":
			o.node = true
		case "--no-scheduler":
			o.noScheduler = true
		case "--all":
			o.all = true
		case "--background":
			o.background = true
		case "--name", "--api-port":
			if len(args) == 0 {
				return o, fmt.Errorf("%s needs a value", arg)
			}
			if arg == "--name" {
				o.name = args[0]
			} else if _, err := fmt.Sscan(args[0], &o.apiPort); err != nil {
				return o, fmt.Errorf("--api-port %s is no number", args[0])
			}
			args = args[1:]
		default:
			return o, fmt.Errorf("unknown option %s", arg)
		}
	}
	o.args = args
	return o, checkName(o.name)
}
