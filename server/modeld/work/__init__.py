"""The processes that may die: the zygote that imports the machine-learning libraries and the workers it forks."""
