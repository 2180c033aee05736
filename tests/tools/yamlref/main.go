// Command yamlref says what kubectl makes of YAML texts: it reads a JSON list of texts from its input and writes, for
// each, the documents as JSON, or the error, and whether strict reading (no duplicate keys) fails.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"os"

	k8s "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

type answer struct {
	Documents []json.RawMessage `json:"documents"`
	Error     string            `json:"error,omitempty"`
	Strict    bool              `json:"strict"`
}

func read(text string) (a answer) {
	decoder := k8s.NewYAMLOrJSONDecoder(bytes.NewReader([]byte(text)), 4096)
	for {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			a.Error = err.Error()
			break
		}
		if len(raw) > 0 && !bytes.Equal(raw, []byte("null")) {
			a.Documents = append(a.Documents, raw)
		}
	}
	_, err := yaml.YAMLToJSONStrict([]byte(text))
	a.Strict = err == nil
	return a
}

func main() {
	var texts []string
	if err := json.NewDecoder(os.Stdin).Decode(&texts); err != nil {
		log.Fatal(err)
	}
	answers := make([]answer, len(texts))
	for i, text := range texts {
		answers[i] = read(text)
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		log.Fatal(err)
	}
}
