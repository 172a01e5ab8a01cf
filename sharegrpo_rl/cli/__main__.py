"""`python -m sharegrpo_rl.cli`."""

from sharegrpo_rl.cli import main

main()
