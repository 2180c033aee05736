package main

import "fmt"

func buildImage(what string, args []string) (string, error) { return "", fmt.Errorf("TODO %s", what) }
func cmdImage(o options) error                              { return nil }
func cmdFakeNodes(o options) error                          { return nil }
