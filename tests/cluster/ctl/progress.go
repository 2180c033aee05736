package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// logTo is standard error until a background supervisor has told its caller that it is ready.
var logTo io.Writer = os.Stderr

func say(format string, args ...any) { fmt.Fprintf(logTo, "[cluster] "+format+"\n", args...) }

func took(since time.Time) string {
	d := time.Since(since)
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}

// progress shows how far a build is: a bar that is drawn again on a terminal, a line every half minute elsewhere.
type progress struct {
	what        string
	began       time.Time
	total, done int
	terminal    bool
	mu          sync.Mutex
	stop        chan struct{}
}

func newProgress(what, cost string) *progress {
	info, err := os.Stderr.Stat()
	p := &progress{what: what, began: time.Now(), stop: make(chan struct{})}
	p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	say("building %s (the first time: about %s on two cores)", what, cost)
	every := 30 * time.Second
	if p.terminal {
		every = time.Second
	}
	go func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-tick.C:
				p.draw()
			}
		}
	}()
	return p
}

func (p *progress) expect() {
	p.mu.Lock()
	p.total++
	p.mu.Unlock()
}

func (p *progress) step() {
	p.mu.Lock()
	p.done++
	p.mu.Unlock()
}

func (p *progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	const width = 30
	full := 0
	if p.total > 0 {
		full = min(width, width*p.done/p.total)
	}
	bar := strings.Repeat("#", full) + strings.Repeat(".", width-full)
	line := fmt.Sprintf("  [%s] %4d of %4d packages, %s", bar, p.done, max(p.total, p.done), took(p.began))
	if p.done == 0 {
		line = fmt.Sprintf("  [%s] loading sources, %s", bar, took(p.began))
	}
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r%s\x1b[K", line)
	} else {
		fmt.Fprintln(os.Stderr, line)
	}
}

func (p *progress) end() {
	close(p.stop)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	say("built %s in %s", p.what, took(p.began))
}

// cost sums up what the first build of a batch is known to take.
func cost(batch []component) string {
	var sum time.Duration
	for _, c := range batch {
		d, _ := time.ParseDuration(strings.NewReplacer(" min", "m", " s", "s", " ", "").Replace(c.cost))
		sum += d
	}
	if sum < time.Minute {
		return fmt.Sprintf("%d s", int(sum.Seconds()))
	}
	return fmt.Sprintf("%d min", int(sum.Round(time.Minute).Minutes()))
}
