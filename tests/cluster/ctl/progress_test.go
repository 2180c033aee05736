package main

import (
	"io"
	"strings"
	"testing"
	"time"
)

func init() { logTo = io.Discard }

// What is typical is told before anything is built, and each line says how far it is.
func TestLineTellsHowFarItIs(t *testing.T) {
	for _, row := range []struct {
		total, done int
		want        []string
	}{
		{0, 0, []string{"[..............................]", "0 %", "loading sources", "of about 12 min"}},
		{8, 0, []string{"0 %", "loading sources"}},
		{8, 2, []string{"[#######.......................]", "25 %", "2 of 8 packages"}},
		{1000, 999, []string{"99 %", "999 of 1000 packages"}},
		{8, 8, []string{"[##############################]", "99 %", "linking"}},
	} {
		p := &progress{typical: 12 * time.Minute, began: time.Now(), total: row.total, done: row.done}
		for _, part := range row.want {
			if line := p.line(); !strings.Contains(line, part) {
				t.Errorf("%d of %d: %q is not in %q", row.done, row.total, part, line)
			}
		}
	}
}

func TestCostOfABatchIsTheSum(t *testing.T) {
	batch := []component{{cost: "2 min"}, {cost: "40 s"}, {cost: "1 min 20 s"}}
	if sum := cost(batch); sum != 4*time.Minute {
		t.Errorf("%v", sum)
	}
	for want, d := range map[string]time.Duration{"40 s": 40 * time.Second, "2 min": 100 * time.Second} {
		if told := roughly(d); told != want {
			t.Errorf("%v is told as %q", d, told)
		}
	}
}

// Whatever a component costs is a time that adds up; a word that is none would count as nothing.
func TestEveryComponentSaysWhatItCosts(t *testing.T) {
	for _, c := range components {
		if c.cost != "" && cost([]component{c}) <= 0 {
			t.Errorf("%s: %q is no time", c.name, c.cost)
		}
	}
}
